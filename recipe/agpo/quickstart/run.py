# SPDX-License-Identifier: Apache-2.0
"""The quickstart: data, a warm-started model, training with verl, Ray and vLLM on the CPU, one summary line.

``bash scripts/run_agpo_quickstart.sh [--method agpo|reference|grpo] [--steps N] [--seed S] [--fresh] [KEY=VALUE ...]``

Other runs of the same form are other values of `Launch` (see smollm2.py).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.agpo.arguments import FAULTY, INTERRUPTED, dry_run, whole
from recipe.agpo.files import FileError, check_folder, make_folder, read_object, write_text
from recipe.agpo.quickstart import summary, task, warm_start
from recipe.agpo.run_folder import CHECKPOINTS, RUN_FILE, TRACKER_FILE

METHODS = ("agpo", "reference", "grpo")
STEPS = 60
TASK_SEED = 0  # problems and warm start are the same for every run; --seed is the order of training
CHECK_SECONDS = 0.5
LINES = 10  # of progress in the output of a run that is not on a terminal
MAX_TOKENS = 48  # data.max_response_length of config/quickstart.yaml; a test compares them
IDENTITY, SUMMARY, TRACKER = "quickstart.json", "summary.json", f"{CHECKPOINTS}/{TRACKER_FILE}"
LARGEST_SEED, LARGEST_STEPS = 10**9, 10**9
_OVERRIDE = re.compile(r"~[^\s=]+(=.*)?|\+{0,2}[^-\s=+~][^\s=]*=.*", re.DOTALL)
_PLAIN_VALUE = re.compile(r"[\w./:@%+-]+", re.ASCII)


@dataclass(frozen=True)
class Launch:
    """What one command of this form trains.

    Attributes:
        name: of the script, the run folder and the messages.
        config: Hydra config of this package.
        steps: how many, unless told otherwise.
        places: (run folder, cache) -> training file, validation file, model folder; nothing is written.
        prepare: brings model and data to these places; what is there is kept.
        environment: variables of the training processes beside those of every run without a GPU.
        report: also write the page of `agpo report` at the end.
        evaluation: options of the `agpo eval` that validates as the run does.
    """

    name: str
    config: str
    steps: int
    places: Callable[[Path, Path], tuple[Path, Path, Path]]
    prepare: Callable[[Path, Path], None]
    environment: Callable[[], Mapping[str, str]] = field(default=dict)
    report: bool = False
    evaluation: Mapping[str, str] = field(default_factory=dict)


def _quickstart_places(folder: Path, cache: Path) -> tuple[Path, Path, Path]:
    return *task.data_paths(folder / "data"), warm_start.checkpoint_folder(cache, TASK_SEED)


def _prepare_quickstart(folder: Path, cache: Path) -> None:
    task.make_data(folder / "data", seed=TASK_SEED)
    warm_start.warm_start(cache, seed=TASK_SEED)


QUICKSTART = Launch(
    "quickstart",
    "quickstart",
    STEPS,
    _quickstart_places,
    _prepare_quickstart,
    evaluation={
        "--dtype": "float32",
        "--max-tokens": str(MAX_TOKENS),
        "--reward": f"{task.__name__}:{task.compute_score.__name__}",
    },
)


def overrides(launch: Launch, method: str, folder: Path, cache: Path, steps: int, seed: int) -> list[str]:
    """Hydra overrides of one run on top of the launch's config."""
    train, val, model = launch.places(folder, cache)
    chosen = {
        "agpo": ["algorithm.adv_estimator=agpo"],
        "reference": ["algorithm.adv_estimator=agpo", "algorithm.agpo.preset=reference"],
        "grpo": ["algorithm.adv_estimator=grpo"],
    }[method]
    return [
        *chosen,
        f"data.train_files={_value(train)}",
        f"data.val_files={_value(val)}",
        f"data.seed={seed + 1}",
        f"actor_rollout_ref.model.path={_value(model)}",
        f"actor_rollout_ref.actor.data_loader_seed={seed + 42}",
        f"trainer.default_local_dir={_value(folder / CHECKPOINTS)}",
        f"trainer.total_training_steps={steps}",
        f"trainer.experiment_name={launch.name}-{method}",
    ]


def command(launch: Launch, run_overrides: list[str], extra: list[str]) -> list[str]:
    """The training command that a user could type."""
    return [sys.executable, "-m", "recipe.agpo.main", "--config-name", launch.config, *run_overrides, *extra]


def main(argv: list[str] | None = None, launch: Launch = QUICKSTART) -> int:
    """Run the quickstart, or another launch of its form.

    Returns:
        The exit code of the training process; 2: bad input, with one message on stderr; 130 after Ctrl-C.
    """
    parser = _parser(launch)
    arguments, extra = parser.parse_known_args(argv)
    for each in extra:
        if not _OVERRIDE.fullmatch(each):
            parser.error(f"{each!r} is neither an option nor a Hydra override KEY=VALUE")
    try:
        return _run(launch, arguments, extra)
    except KeyboardInterrupt:  # before the training: it ends on its own
        print(f"\n{launch.name}: interrupted; the same command continues.", file=sys.stderr)
        return INTERRUPTED
    except FileError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
    except ValueError as error:  # of preparing model and data
        message = str(error)
    print(f"{launch.name}: {message}", file=sys.stderr)
    return FAULTY


def _run(launch: Launch, arguments: argparse.Namespace, extra: list[str]) -> int:
    name = launch.name
    folder = Path(arguments.out or f"runs/{name}-{arguments.method}-seed{arguments.seed}").absolute()
    cache = Path(arguments.cache).absolute()
    check_folder(folder)
    check_folder(cache)
    if dry_run():  # for `agpo plan`: nothing is written
        given = overrides(launch, arguments.method, folder, cache, arguments.steps, arguments.seed)
        print("--config-name", launch.config, *given, *extra, sep="\n")
        return 0
    if arguments.fresh and folder.exists():
        _remove(launch, folder)
    if (folder / SUMMARY).exists():
        print(f"{name}: {folder} holds a finished run. Add --fresh to start again; its result was:")
        print(_document(folder / SUMMARY).get("line", "(no summary line)"))
        _say_what_comes_next(folder, launch)
        return 0
    make_folder(folder)
    _same_run_or_stop(folder, {"method": arguments.method, "seed": arguments.seed, "extra": extra})

    began = time.monotonic()
    launch.prepare(folder, cache)
    if (folder / TRACKER).exists():
        step = (folder / TRACKER).read_text(errors="replace").strip()
        print(f"{name}: continuing from step {step} in {folder}. Add --fresh to start again.")

    attempt = len(list(folder.glob("metrics.*.jsonl")))
    metrics = folder / f"metrics.{attempt:03d}.jsonl"
    given = overrides(launch, arguments.method, folder, cache, arguments.steps, arguments.seed)
    log = folder / "train.log"
    print(f"{name}: method {arguments.method}, {arguments.steps} steps; log in {log}")
    code = _train(launch, command(launch, given, extra), metrics, log, arguments.steps)
    if code == INTERRUPTED:
        return code
    if code != 0:
        print(f"{name}: training ended with code {code}. {_last_error(log)}\nThe log is {log}", file=sys.stderr)
        print(f"{name}: the same command continues from the last checkpoint.", file=sys.stderr)
        return code
    if launch.report:  # a program of its own: the report is not part of a run, and stands above it
        subprocess.run([sys.executable, "-m", "recipe.agpo.cli", "report", str(folder)], check=False)
    wall = time.monotonic() - began
    summary.write(folder, wall_seconds=wall, method=arguments.method, seed=arguments.seed, name=name)
    _say_what_comes_next(folder, launch)
    return 0


def evaluation(folder: Path, launch: Launch = QUICKSTART) -> list[str] | None:
    """The command that evaluates the last checkpoint as the run has validated it; None without such a checkpoint."""
    tracker = folder / TRACKER
    step = tracker.read_text(errors="replace").strip() if tracker.is_file() else ""
    model = folder / "checkpoints" / f"global_step_{step}"
    if not any((model / "actor" / "huggingface").glob("*.safetensors")):
        return None
    beside = Path(sys.executable).with_name("agpo")
    agpo = [_near(beside)] if beside.is_file() else [_near(Path(sys.executable)), "-m", "recipe.agpo.cli"]
    given = {
        "--platform": "cpu",
        "--model": _near(model),
        "--data": _near(launch.places(folder, folder)[1]),
        **launch.evaluation,
        "--out": _near(folder / "eval"),
    }
    return [*agpo, "eval", *(word for pair in given.items() for word in pair)]


def _say_what_comes_next(folder: Path, launch: Launch) -> None:
    if (words := evaluation(folder, launch)) is not None:
        print(f"{launch.name}: evaluate the checkpoint with\n{shlex.join(words)}")


def _near(path: Path) -> str:
    """A path as a person in the current folder would write it."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


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


def _remove(launch: Launch, folder: Path) -> None:
    """Remove a run folder for ``--fresh``; only one that this command made, since any folder can be named."""
    before = folder / RUN_FILE  # the command's own, before every launch wrote one
    ours = (folder / IDENTITY).is_file() or (before.is_file() and "method" in _document(before))
    if not ours and any(folder.iterdir()):
        raise FileError(f"--fresh: {folder} is no run folder of this command (no {IDENTITY} in it): name another --out")
    print(f"{launch.name}: --fresh: removing {folder}")
    shutil.rmtree(folder)


def _document(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileError as error:
        raise FileError(f"{error}. Add --fresh to start again") from None


def _parser(launch: Launch) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"run_agpo_{launch.name}.sh", description=__doc__)
    parser.add_argument("--method", choices=METHODS, default="agpo")
    parser.add_argument("--steps", type=_between(1, LARGEST_STEPS), default=launch.steps)
    parser.add_argument(
        "--seed", type=_between(0, LARGEST_SEED), default=0, help="order of the training prompts and of mini-batches"
    )
    parser.add_argument("--out", help=f"run folder (default: runs/{launch.name}-<method>-seed<seed>)")
    parser.add_argument("--cache", default=f".cache/{launch.name}", help="where the model to start from is kept")
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


def _train(launch: Launch, run: list[str], metrics: Path, log: Path, steps: int) -> int:
    """Run the training process with a progress bar; all its processes have ended when this returns."""
    from tqdm import tqdm

    from recipe.agpo.cpu.config import cpu_env
    from recipe.agpo.processes import MARKER, end_marked, new_run_id

    marker = new_run_id()
    environment = (
        os.environ
        | cpu_env()
        | dict(launch.environment())
        | {
            MARKER: marker,
            "VERL_FILE_LOGGER_PATH": str(metrics),
            "HYDRA_FULL_ERROR": "1",
        }
    )
    bar = tqdm(total=steps, desc="starting Ray and vLLM", unit="step", disable=None)  # None: on a terminal only
    told = 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            run, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        previous = {s: signal.signal(s, _interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            while process.poll() is None:
                _advance(bar, metrics)
                told = _tell(bar, steps, told)
                time.sleep(CHECK_SECONDS)
            _advance(bar, metrics)
            _tell(bar, steps, told)
            return int(process.returncode)
        except KeyboardInterrupt:
            print(f"\n{launch.name}: stopping; the same command continues from the last checkpoint.", file=sys.stderr)
            return INTERRUPTED
        finally:
            for which, handler in previous.items():
                signal.signal(which, handler)
            bar.close()
            end_marked(marker)


def _tell(bar: Any, steps: int, told: int) -> int:
    """Without a bar, one line for each tenth of the run; returns the last tenth that was told."""
    tenth = bar.n * LINES // steps
    if bar.disable and tenth > told:
        print(f"quickstart: step {bar.n} of {steps}, {bar.postfix}", flush=True)
        return int(tenth)
    return told


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
        bar.set_description("training" if record["step"] else "validated the start")
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
