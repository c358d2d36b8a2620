# SPDX-License-Identifier: Apache-2.0
"""The quickstart: data, a warm-started model, training with verl, Ray and vLLM on the CPU, one summary line.

``bash scripts/run_agpo_quickstart.sh [--method agpo|reference|grpo] [--steps N] [--seed S] [--fresh] [KEY=VALUE ...]``
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipe.agpo.arguments import whole
from recipe.agpo.files import FileError, check_folder, make_folder, read_object, write_text
from recipe.agpo.quickstart import summary, task, warm_start
from recipe.agpo.run_folder import CHECKPOINTS, RUN_FILE, TRACKER_FILE

METHODS = ("agpo", "reference", "grpo")
STEPS = 60
TASK_SEED = 0  # problems and warm start are the same for every run; --seed is the order of training
CHECK_SECONDS = 0.5
FAULTY, INTERRUPTED = 2, 130  # the exit codes of bad input, and what a shell reports after Ctrl-C
IDENTITY, SUMMARY, TRACKER = "quickstart.json", "summary.json", f"{CHECKPOINTS}/{TRACKER_FILE}"
LARGEST_SEED, LARGEST_STEPS = 10**9, 10**9
_OVERRIDE = re.compile(r"~[^\s=]+(=.*)?|\+{0,2}[^-\s=+~][^\s=]*=.*", re.DOTALL)
_PLAIN_VALUE = re.compile(r"[\w./:@%+-]+", re.ASCII)


def overrides(method: str, folder: Path, model: Path, data: tuple[Path, Path], steps: int, seed: int) -> list[str]:
    """Hydra overrides of one run on top of ``config/quickstart.yaml``."""
    chosen = {
        "agpo": ["algorithm.adv_estimator=agpo"],
        "reference": ["algorithm.adv_estimator=agpo", "algorithm.agpo.preset=reference"],
        "grpo": ["algorithm.adv_estimator=grpo"],
    }[method]
    return [
        *chosen,
        f"data.train_files={_value(data[0])}",
        f"data.val_files={_value(data[1])}",
        f"data.seed={seed + 1}",
        f"actor_rollout_ref.model.path={_value(model)}",
        f"actor_rollout_ref.actor.data_loader_seed={seed + 42}",
        f"trainer.default_local_dir={_value(folder / CHECKPOINTS)}",
        f"trainer.total_training_steps={steps}",
        f"trainer.experiment_name=quickstart-{method}",
    ]


def command(method: str, run_overrides: list[str], extra: list[str]) -> list[str]:
    """The training command that a user could type."""
    return [sys.executable, "-m", "recipe.agpo.main", "--config-name", "quickstart", *run_overrides, *extra]


def main(argv: list[str] | None = None) -> int:
    """Run the quickstart.

    Returns:
        The exit code of the training process; 2: bad input, with one message on stderr; 130 after Ctrl-C.
    """
    parser = _parser()
    arguments, extra = parser.parse_known_args(argv)
    for each in extra:
        if not _OVERRIDE.fullmatch(each):
            parser.error(f"{each!r} is neither an option nor a Hydra override KEY=VALUE")
    try:
        return _run(arguments, extra)
    except KeyboardInterrupt:
        return INTERRUPTED
    except FileError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
    print(f"quickstart: {message}", file=sys.stderr)
    return FAULTY


def _run(arguments: argparse.Namespace, extra: list[str]) -> int:
    folder = Path(arguments.out or f"runs/quickstart-{arguments.method}-seed{arguments.seed}").absolute()
    cache = Path(arguments.cache).absolute()
    check_folder(folder)
    check_folder(cache)
    if os.environ.get("AGPO_DRY_RUN") == "1":  # for `agpo plan`: nothing is written
        paths = (task.data_paths(folder / "data"), warm_start.checkpoint_folder(cache, TASK_SEED))
        given = overrides(arguments.method, folder, paths[1], paths[0], arguments.steps, arguments.seed)
        print("--config-name", "quickstart", *given, *extra, sep="\n")
        return 0
    if arguments.fresh and folder.exists():
        _remove(folder)
    if (folder / SUMMARY).exists():
        print(f"quickstart: {folder} holds a finished run. Add --fresh to start again; its result was:")
        print(_document(folder / SUMMARY).get("line", "(no summary line)"))
        return 0
    make_folder(folder)
    _same_run_or_stop(folder, {"method": arguments.method, "seed": arguments.seed, "extra": extra})

    began = time.monotonic()
    data = task.make_data(folder / "data", seed=TASK_SEED)
    model = warm_start.warm_start(cache, seed=TASK_SEED)
    if (folder / TRACKER).exists():
        step = (folder / TRACKER).read_text(errors="replace").strip()
        print(f"quickstart: continuing from step {step} in {folder}. Add --fresh to start again.")

    attempt = len(list(folder.glob("metrics.*.jsonl")))
    metrics = folder / f"metrics.{attempt:03d}.jsonl"
    run = command(
        arguments.method,
        overrides(arguments.method, folder, model, data, arguments.steps, arguments.seed),
        extra,
    )
    log = folder / "train.log"
    print(f"quickstart: method {arguments.method}, {arguments.steps} steps; log in {log}")
    code = _train(run, metrics, log, arguments.steps)
    if code == INTERRUPTED:
        return code
    if code != 0:
        print(f"quickstart: training ended with code {code}. {_last_error(log)}\nThe log is {log}", file=sys.stderr)
        print("quickstart: the same command continues from the last checkpoint.", file=sys.stderr)
        return code
    summary.write(folder, wall_seconds=time.monotonic() - began, method=arguments.method, seed=arguments.seed)
    return 0


def _value(path: Path) -> str:
    """A path as a value of a Hydra override; quoted where Hydra's grammar asks for it."""
    text = str(path)
    if _PLAIN_VALUE.fullmatch(text):
        return text
    return "'" + text.replace("'", "\\'") + "'"


def _between(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = whole(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} must be from {low} to {high}")
        return value

    return number


def _remove(folder: Path) -> None:
    """Remove a run folder for ``--fresh``; only one that a quickstart made, since any folder can be named."""
    before = folder / RUN_FILE  # the quickstart's own, before every launch wrote one
    ours = (folder / IDENTITY).is_file() or (before.is_file() and "method" in _document(before))
    if not ours and any(folder.iterdir()):
        raise FileError(f"--fresh: {folder} is no run folder of a quickstart (no {IDENTITY} in it): name another --out")
    print(f"quickstart: --fresh: removing {folder}")
    shutil.rmtree(folder)


def _document(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileError as error:
        raise FileError(f"{error}. Add --fresh to start again") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run_agpo_quickstart.sh", description=__doc__)
    parser.add_argument("--method", choices=METHODS, default="agpo")
    parser.add_argument("--steps", type=_between(1, LARGEST_STEPS), default=STEPS)
    parser.add_argument(
        "--seed", type=_between(0, LARGEST_SEED), default=0, help="order of the training prompts and of mini-batches"
    )
    parser.add_argument("--out", help="run folder (default: runs/quickstart-<method>-seed<seed>)")
    parser.add_argument("--cache", default=".cache/quickstart", help="where warm-started models are kept")
    parser.add_argument("--fresh", action="store_true", help="delete the contents of the run folder and start again")
    return parser


def _same_run_or_stop(folder: Path, identity: dict[str, Any]) -> None:
    """A run folder belongs to one set of arguments; with two, its curves would mix different runs."""
    path = folder / IDENTITY
    if path.exists() and (before := _document(path)) != identity:
        raise FileError(
            f"{folder} was started with {before}, now {identity}. Add --fresh to start again, or name another folder "
            "with --out"
        )
    write_text(path, json.dumps(identity))


def _train(run: list[str], metrics: Path, log: Path, steps: int) -> int:
    """Run the training process with a progress bar; all its processes have ended when this returns."""
    from tqdm import tqdm

    from recipe.agpo.cpu.config import cpu_env
    from recipe.agpo.processes import MARKER, end_marked, new_run_id

    marker = new_run_id()
    environment = (
        os.environ
        | cpu_env()
        | {
            MARKER: marker,
            "VERL_FILE_LOGGER_PATH": str(metrics),
            "HYDRA_FULL_ERROR": "1",
        }
    )
    bar = tqdm(total=steps, desc="starting Ray and vLLM", unit="step")
    with log.open("ab") as output:
        process = subprocess.Popen(
            run, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        previous = {s: signal.signal(s, _interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            while process.poll() is None:
                _advance(bar, metrics)
                time.sleep(CHECK_SECONDS)
            _advance(bar, metrics)
            return int(process.returncode)
        except KeyboardInterrupt:
            print("\nquickstart: stopping; the same command continues from the last checkpoint.", file=sys.stderr)
            return INTERRUPTED
        finally:
            for which, handler in previous.items():
                signal.signal(which, handler)
            bar.close()
            end_marked(marker)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _advance(bar: Any, metrics: Path) -> None:
    """Show the newest logged step."""
    if not metrics.exists():
        return
    lines = metrics.read_bytes().splitlines()
    for line in reversed(lines[-2:]):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        data = record["data"]
        bar.set_description("training" if record["step"] else "validated the warm start")
        bar.set_postfix(summary.newest(data), refresh=False)
        if not bar.n:
            # The rate shown is that of the steps, without start-up.
            bar.reset()
            bar.initial = record["step"]
        bar.n = record["step"]
        bar.refresh()
        return


def _last_error(log: Path) -> str:
    """The line of the log that most likely says what went wrong."""
    lines = log.read_text(errors="replace").splitlines()[-400:]
    marks = ("Error:", "ConfigProblem:", "RolloutFailed:")
    wanted = [line for line in lines if any(mark in line for mark in marks) and "Warning" not in line]
    return wanted[-1].strip() if wanted else "No error line was found."


if __name__ == "__main__":
    sys.exit(main())
