"""When to look for drift: every hour by default. On to training where the task asks for it.

Exit 5 (something stands out) goes on. Exit 0 (as it was) would: it becomes a skip, as no full
window (3) is one. Anything else failed, a crash (1) too.
"""

from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG

from everlearn.config import load
from everlearn.schedule import when
from everlearn.task import read_tasks

AS_IT_WAS, NOT_YET, DRIFTED = 99, 3, 5
CODES = f"case $code in 0) exit {AS_IT_WAS};; {DRIFTED}) exit 0;; *) exit $code;; esac"

for name, task in read_tasks(load()).tasks.items():
    with DAG(
        f"everlearn_drift_{name}",
        schedule=when(task.schedule.drift),
        catchup=False,
        max_active_runs=1,
        default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
        tags=["everlearn", name],
    ) as dag:
        look = BashOperator(
            task_id="look",
            bash_command=f"code=0; everlearn drift {name} || code=$?; {CODES}",
            skip_on_exit_code=[AS_IT_WAS, NOT_YET],
            execution_timeout=timedelta(minutes=30),
        )
        if task.drift.retrain:
            look >> TriggerDagRunOperator(
                task_id="retrain",
                trigger_dag_id=f"everlearn_retrain_{name}",
                trigger_run_id="drift-{{ ds }}",
                skip_when_already_exists=True,
            )
    globals()[dag.dag_id] = dag
