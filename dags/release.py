"""When to ramp: on demand, with the version to release; the controller moves the traffic.

The run lasts until the release has ended and holds no worker meanwhile: green if it was promoted,
skipped with the reason if not. Several may be under way: a newer version may take the place of one
that is undecided.
"""

from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

from everlearn.config import load
from everlearn.task import read_tasks
from serving.release.ended import AwaitRelease

for name in read_tasks(load()).tasks:
    with DAG(
        f"everlearn_release_{name}",
        schedule=None,
        catchup=False,
        max_active_runs=16,
        default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
        params={
            "version": Param(type="string", pattern="^[0-9]+$"),
            "trust_raters": Param(False, type="boolean"),
            "anyway": Param(False, type="boolean"),
        },
        tags=["everlearn", name],
    ) as dag:
        start = BashOperator(
            task_id="start",
            bash_command=f"everlearn release start {name} {{{{ params.version }}}}"
            "{{ ' --trust-raters' if params.trust_raters else '' }}"
            "{{ ' --anyway' if params.anyway else '' }}",
            skip_on_exit_code=[1, 3],
            execution_timeout=timedelta(minutes=10),
        )
        start >> AwaitRelease(
            task_id="decided", everlearn_task=name, version="{{ params.version }}"
        )
    globals()[dag.dag_id] = dag
