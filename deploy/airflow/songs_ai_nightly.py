"""The nightly chain of one site, for those who run Airflow: the commands that people and the worker's schedule run.

    ingest -> check -> embed -> fit -> refresh

``fit`` evaluates on what came last, and promotes only what is no worse; a version that is refused is no failure. A task
that fails stops those after it: what is in force stays in force, and results stay served. Each command does nothing the
second time, so any of them may be tried again, wherever it was cut off. See docs/airflow.md.

Variables of Airflow, read when a task runs (``airflow variables set songs_ai_home /srv/songs-ai``):

=================  ====================================================================================
songs_ai_home      the directory of main.py, and of a .env with the settings; default /app
songs_ai_python    the interpreter that has requirements-train.txt; default {songs_ai_home}/.venv/bin/python
songs_ai_files     a JSON list of files for ingest, items first; default []: a backend owns the catalogue
songs_ai_budget_s  seconds that fit may take for choosing parameters; default 120
songs_ai_members   how many members refresh looks at; default 1000; 0: no refresh
=================  ====================================================================================

Environment of Airflow's DAG processor: ``SONGS_AI_SCHEDULE`` (cron, default ``30 2 * * *``; empty: by hand alone),
``TIME_ZONE`` (default ``Asia/Seoul``), ``SONGS_AI_RETRIES`` (2), ``SONGS_AI_RETRY_DELAY_S`` (300). Settings such as
``DATABASE_URL`` come from the .env file or from the environment of Airflow's workers; they are in no variable, and so
on no page of Airflow's.
"""

import os
from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, chain

HOME = "{{ var.value.get('songs_ai_home', '/app') }}"

MAIN = '"${SONGS_AI_PYTHON:-.venv/bin/python}" main.py'

# Values of variables come in by the environment, where no quote in them means anything to the shell.
COMMANDS = {
    "ingest": f"""
        if [ -z "$SONGS_AI_FILES" ]; then echo "songs_ai_files is empty: nothing to ingest"; exit 0; fi
        mapfile -t files <<< "$SONGS_AI_FILES"
        exec {MAIN} ingest "${{files[@]}}"
    """,
    "check": f"exec {MAIN} check",
    "embed": f"exec {MAIN} embed",
    "fit": f'exec {MAIN} fit --budget-s "$SONGS_AI_BUDGET_S"',
    "refresh": f"""
        if [ "$SONGS_AI_MEMBERS" = 0 ]; then echo "songs_ai_members is 0: no refresh"; exit 99; fi
        exec {MAIN} refresh --members "$SONGS_AI_MEMBERS"
    """,
}

# A provider may take a day to answer a batch, and a run that was cut off goes on where it was.
LONGEST = {"refresh": timedelta(hours=26)}

with DAG(
    "songs_ai_nightly",
    description="ingest -> check -> embed -> fit (evaluates, promotes) -> refresh",
    doc_md=__doc__,
    schedule=os.environ.get("SONGS_AI_SCHEDULE", "30 2 * * *") or None,
    start_date=pendulum.datetime(2026, 1, 1, tz=os.environ.get("TIME_ZONE", "Asia/Seoul")),
    catchup=False,
    max_active_runs=1,
    tags=["songs-ai"],
    default_args={
        "retries": int(os.environ.get("SONGS_AI_RETRIES", "2")),
        "retry_delay": timedelta(seconds=float(os.environ.get("SONGS_AI_RETRY_DELAY_S", "300"))),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(hours=6),
    },
) as dag:
    tasks = [
        BashOperator(
            task_id=name,
            bash_command=command,
            cwd=HOME,
            append_env=True,
            do_xcom_push=False,
            env={
                "SONGS_AI_PYTHON": "{{ var.value.get('songs_ai_python', '') }}",
                "SONGS_AI_FILES": "{{ var.json.get('songs_ai_files', []) | join('\\n') }}",
                "SONGS_AI_BUDGET_S": "{{ var.value.get('songs_ai_budget_s', '120') }}",
                "SONGS_AI_MEMBERS": "{{ var.value.get('songs_ai_members', '1000') }}",
            },
            **({"execution_timeout": LONGEST[name]} if name in LONGEST else {}),
        )
        for name, command in COMMANDS.items()
    ]
    chain(*tasks)
