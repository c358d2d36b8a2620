# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a checkpoint: named protocols, resumable runs, accuracy with intervals, paired comparison.

Independent of training: ``agpo_core`` is not imported, so no controller affects an evaluation.

    protocols.py  sampling settings
    data.py       problems from verl's parquet schema
    checkpoint.py which folder holds the weights, and what they are
    generate.py   vLLM
    judge.py      verdicts
    store.py      the run folder: header, responses, verdicts
    run.py        generate, judge, compute the figures
    metrics.py    the figures
    report.py     JSON, table, picture
"""
