"""When to fill the label queue and say how far graders agree with experts: every day by default.

`evaluate` fills the queue too; here it is filled for a task whose evaluations pause. The day's
agreement is the run's XCom.
"""

from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from everlearn.config import load
from everlearn.schedule import when
from everlearn.task import read_tasks

for name, task in read_tasks(load()).tasks.items():
    with DAG(
        f"everlearn_label_{name}",
        schedule=when(task.schedule.label),
        catchup=False,
        max_active_runs=1,
        default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
        tags=["everlearn", name],
    ) as dag:
        fill = BashOperator(
            task_id="fill",
            bash_command=f"everlearn labels fill {name}",
            execution_timeout=timedelta(minutes=30),
        )
        fill >> BashOperator(
            task_id="agreement",
            bash_command=f"everlearn labels agreement {name} --json",
            execution_timeout=timedelta(minutes=30),
        )
    globals()[dag.dag_id] = dag
