"""When to learn: every two hours by default, a candidate and its gate; passed, its release.

Exit 1 (the answer is no) and 3 (not enough evidence) skip the rest of the run, with the reason in
the task's log; what is away (exit 4) is tried again.
"""

import json
from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG

from everlearn.config import load
from everlearn.schedule import when
from everlearn.task import read_tasks

NO_OR_NOT_YET = [1, 3]
VERSION = "{{ ti.xcom_pull('train')['version'] }}"

for name, task in read_tasks(load()).tasks.items():
    with DAG(
        f"everlearn_retrain_{name}",
        schedule=when(task.schedule.retrain),
        catchup=False,
        max_active_runs=1,
        default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
        tags=["everlearn", name],
    ) as dag:
        evaluate = BashOperator(task_id="evaluate", bash_command=f"everlearn evaluate {name}")
        train = BashOperator(
            task_id="train",
            # XCom takes the last line of the output: put the JSON on one.
            bash_command=f"set -o pipefail; everlearn train {name} --json | tr -d '\\n'",
            output_processor=json.loads,
            skip_on_exit_code=NO_OR_NOT_YET,
            execution_timeout=timedelta(hours=6),
        )
        gate = BashOperator(
            task_id="gate",
            bash_command=f"everlearn gate {name} {VERSION}",
            skip_on_exit_code=NO_OR_NOT_YET,
        )
        release = TriggerDagRunOperator(
            task_id="release",
            trigger_dag_id=f"everlearn_release_{name}",
            conf={"version": VERSION},
        )
        evaluate >> train >> gate >> release
        if task.comments is not None:
            # What people wrote is tried before the snapshot is taken; what waits stops nobody.
            learn = f"everlearn comments {name} --learn"
            evaluate >> BashOperator(task_id="comments", bash_command=learn) >> train
    globals()[dag.dag_id] = dag
