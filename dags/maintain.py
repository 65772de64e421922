"""When to tidy up: every night, the lake's files. The verb says how."""

from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    "everlearn_maintain",
    schedule="30 3 * * *",
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
    tags=["everlearn"],
):
    BashOperator(
        task_id="maintain",
        bash_command="everlearn maintain",
        execution_timeout=timedelta(hours=2),
    )
