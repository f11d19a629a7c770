"""Time one forward of the backbone beside torchvision's ResNet-101: `python tools/benchmark.py --json speed.json`.

Both models run in turn, in one process, on the same input; medians are reported with the fastest and slowest run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet101

from dynamicvis import __version__, create_backbone
from dynamicvis.backbone import VARIANTS


def time_forwards(models: dict[str, nn.Module], size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of one forward of every model on a (1, 3, size, size) input: median, minimum and maximum."""
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for repeat in range(repeats + 1):
            for name, model in models.items():
                start = time.perf_counter()
                model(images)
                if repeat:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in seconds.items()
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=["base"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024, 2048], help="image edges, pixels")
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args(arguments)
    models: dict[str, nn.Module] = {name: create_backbone(name).eval() for name in options.variants}
    models["ResNet-101"] = resnet101().eval()
    report = {
        "dynamicvis": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        "seconds": {},
    }
    for size in options.sizes:
        report["seconds"][size] = result = time_forwards(models, size, options.repeats)
        for name, values in result.items():
            ratio = values["median"] / result["ResNet-101"]["median"]
            print(f"{size:>5} {name:>10} {values['median']:8.3f} s  {ratio:5.2f} of ResNet-101", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
