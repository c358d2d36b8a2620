# SPDX-License-Identifier: Apache-2.0
"""``agpo doctor --ranks N``: checks of the Ray cluster of a run, and of the communication between its GPUs."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.agpo.cli.rows import DISTRIBUTION, FAIL, OK, RAY_TIMEOUT_S, Row

CONNECT_TIMEOUT_S = 5.0
SAME_EVERYWHERE = (DISTRIBUTION, "verl", "torch", "ray")


class Rank:
    """One GPU of the run; on the platform without GPUs one slot."""

    def look(self, marker: str | None) -> dict[str, Any]:
        """Versions on the node of this rank, and whether it can read a file of the run's folder."""
        versions = {}
        for name in SAME_EVERYWHERE:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                versions[name] = "missing"
        return {
            "node": socket.gethostname(),
            "versions": versions,
            "sees_folder": marker is None or Path(marker).exists(),
        }

    def address(self) -> str:
        """Address of this rank."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address().strip('[]')}:{free.getsockname()[1]}"

    def all_reduce(self, rank: int, ranks: int, address: str) -> float:
        """All-reduce of the number 1 over all ranks, with NCCL on GPUs and gloo without them."""
        import torch
        from torch import distributed

        gpu = torch.cuda.is_available()
        distributed.init_process_group("nccl" if gpu else "gloo", init_method=address, rank=rank, world_size=ranks)
        one = torch.ones(1, device="cuda" if gpu else "cpu")
        distributed.all_reduce(one)
        total = float(one)
        distributed.destroy_process_group()
        return total


def cluster_rows(ranks: int, folder: Path | None) -> Iterator[Row]:
    """Rows about the cluster at ``RAY_ADDRESS``, or this machine when it is not set.

    Args:
        ranks: GPUs of the run over all nodes.
        folder: output folder of the run; every node must be able to read it.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS")
    try:
        _connect(address, ranks)
    except Exception as error:  # reported as a row
        fix = "start it with `ray start --head`, or unset RAY_ADDRESS to use this machine alone"
        yield Row("ray", FAIL, f"{address or 'local'}: {type(error).__name__}: {str(error)[:200]}", fix)
        return
    try:
        yield from _connected_rows(ranks, folder, address or "this machine")
    finally:
        ray.shutdown()


def _connect(address: str | None, ranks: int) -> None:
    import ray

    from recipe.agpo import cpu

    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdigit():
            # Ray itself retries for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
        ray.init(address=address, **quiet)
        return
    slots = {"num_gpus": ranks} if cpu.enabled() else {}
    ray.init(address="local", include_dashboard=False, object_store_memory=100 * 2**20, **slots, **quiet)


def _connected_rows(ranks: int, folder: Path | None, where: str) -> Iterator[Row]:
    import ray

    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    there = int(ray.cluster_resources().get("GPU", 0))
    text = f"{where}: {nodes} node(s), {there} GPU(s)"
    if there < ranks:
        yield Row("ray", FAIL, f"{text}; the run needs {ranks}", "add nodes to the cluster, or lower GPUS or NODES")
        return
    yield Row("ray", OK, text)

    marker = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        marker = folder / f".agpo-doctor-{uuid.uuid4().hex}"
        marker.touch()
    # SPREAD would take a GPU of each node first; a run fills one node after the other, and so does this check.
    workers = [ray.remote(Rank).options(num_gpus=1, num_cpus=0).remote() for _ in range(ranks)]
    try:
        yield from _node_rows(workers, marker)
        yield _collective_row(workers)
    except ray.exceptions.GetTimeoutError:
        yield Row(
            "ranks",
            FAIL,
            f"{ranks} processes did not answer in {RAY_TIMEOUT_S:.0f} s",
            "see `ray status`: another job may hold the GPUs",
        )
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        fix = "look at the network between the nodes: NCCL_DEBUG=INFO, NCCL_SOCKET_IFNAME"
        yield Row("ranks", FAIL, f"{type(cause).__name__}: {str(cause).strip()[:300]}", fix)
    finally:
        if marker is not None:
            marker.unlink(missing_ok=True)


def _node_rows(workers: list[Any], marker: Path | None) -> Iterator[Row]:
    import ray

    path = None if marker is None else str(marker)
    seen = ray.get([worker.look.remote(path) for worker in workers], timeout=RAY_TIMEOUT_S)
    differing = {name for name in SAME_EVERYWHERE if len({look["versions"][name] for look in seen}) > 1}
    missing = {name for name in SAME_EVERYWHERE if any(look["versions"][name] == "missing" for look in seen)}
    if differing or missing:
        words = [f"{look['node']}: {name} {look['versions'][name]}" for name in differing | missing for look in seen]
        fix = "install the same environment on every node"
        yield Row("environments", FAIL, "; ".join(sorted(set(words)))[:300], fix)
    else:
        nodes = len({look["node"] for look in seen})
        yield Row("environments", OK, f"the same {', '.join(SAME_EVERYWHERE)} on {nodes} node(s)")
    if marker is None:
        return
    blind = sorted({look["node"] for look in seen if not look["sees_folder"]})
    if blind:
        fix = "point OUT, DATA_DIR and MODEL_PATH to a file system that all nodes share"
        yield Row("run folder", FAIL, f"{marker.parent} is not the same folder on {', '.join(blind)}", fix)
    else:
        yield Row("run folder", OK, f"{marker.parent} is shared by all ranks")


def _collective_row(workers: list[Any]) -> Row:
    import ray

    began, ranks = time.monotonic(), len(workers)
    address = ray.get(workers[0].address.remote(), timeout=RAY_TIMEOUT_S)
    sums = ray.get(
        [worker.all_reduce.remote(rank, ranks, address) for rank, worker in enumerate(workers)],
        timeout=RAY_TIMEOUT_S,
    )
    if set(sums) != {float(ranks)}:
        found = f"an all-reduce of ones over {ranks} ranks gave {sorted(set(sums))}"
        return Row("collectives", FAIL, found, "look at the NCCL version and its environment variables")
    return Row("collectives", OK, f"all-reduce over {ranks} rank(s) in {time.monotonic() - began:.1f} s")
