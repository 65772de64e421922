"""When to judge: every ten minutes by default, what is unscored. The verb says how."""

from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from everlearn.config import load
from everlearn.schedule import when
from everlearn.task import read_tasks

for name, task in read_tasks(load()).tasks.items():
    with DAG(
        f"everlearn_evaluate_{name}",
        schedule=when(task.schedule.evaluate),
        catchup=False,
        max_active_runs=1,
        default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
        tags=["everlearn", name],
    ) as dag:
        BashOperator(
            task_id="evaluate",
            bash_command=f"everlearn evaluate {name}",
            execution_timeout=timedelta(minutes=30),
        )
    globals()[dag.dag_id] = dag
