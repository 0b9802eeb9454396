"""Serve a store's prompts from two machines, by Ray Serve; here both machines are nodes on this one.

    overture demo                                       # makes a prompt, demo-bank
    .venv-ray/bin/python examples/serve_on_ray.py --store .overture
    curl http://127.0.0.1:8000/v1/predict -H content-type:application/json \\
        -d '{"prompt": "demo-bank", "inputs": ["Where is my new card?"]}'

On a real cluster, start Ray on each machine (`ray start --head`, `ray start --address HEAD:6379`) and leave out the
nodes that are made here: `--address auto`. The store and the model lie on storage that all machines see.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.cluster_utils import Cluster as Nodes

from overture.core.records.serving import WorkerOptions
from overture.server.on_ray import Cluster, serving


@contextlib.contextmanager
def two_nodes(cpus: int) -> Iterator[Nodes]:
    """A cluster of two nodes on this machine."""
    # A machine that is two is slow to start; with five seconds Ray would start its proxy again and again.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
    # Ray gives its processes what others leave (15); who waits for an answer is no batch job.
    os.environ.setdefault("RAY_worker_niceness", "0")
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    nodes.add_node(num_cpus=cpus)
    try:
        ray.init(address=nodes.address, log_to_driver=False)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path(".overture"))
    parser.add_argument("--backbone", default="smollm2", help="the frozen model")
    parser.add_argument("--engines", type=int, default=2, help="at most; one runs while little is asked")
    parser.add_argument("--address", help="of a running cluster; two nodes on this machine if not given")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    worker = WorkerOptions(store=str(given.store.resolve()), backbone=given.backbone)
    cluster = Cluster(worker=worker, most_engines=given.engines, port=given.port, is_on_head=not given.address)
    with contextlib.ExitStack() as held:
        if given.address:
            ray.init(address=given.address, log_to_driver=False)
        else:
            held.enter_context(two_nodes(cpus=2))
        held.enter_context(serving(cluster))
        print(f"http://127.0.0.1:{given.port} serves {given.store}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)


if __name__ == "__main__":
    main()
