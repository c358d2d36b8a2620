# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a checkpoint: named protocols, resumable runs, accuracy with intervals, paired comparison.

Independent of training: nothing of ``agpo_core`` is imported here, so no controller can touch an evaluation.

    protocols.py  what is asked of the model
    data.py       problems from verl's parquet schema
    checkpoint.py which folder holds the weights, and what they are
    generate.py   vLLM
    judge.py      verdicts
    store.py      the run folder: header, responses, verdicts
    run.py        the order of things
    metrics.py    the figures
    report.py     JSON, table, picture
"""
