"""Time medcli against the papers' code: `python docs/scripts/bench_papers.py [MODEL] [--train]`; prints JSON.

The papers' sampling loop makes one image at a time, calls the network twice per step, computes every softmax explicitly
and resizes the position biases in each call. With `--train` a training step is compared instead. Both sides get the
same weights and noise, and their results are compared too. Figures: docs/performance.md and docs/finetuning.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench_papers_training import compare_training
from medcli.engine.networks import LadderNetwork
from medcli.engine.plan import FinishedImage, Noise, SamplingPlan, forward_inputs, latent_shape_of, philox_noise
from medcli.network import Network
from medcli.runtime.precision import DTYPES, TF32, products_of, tf32
from medcli.runtime.reporting import Silent
from medcli.runtime.timing import Clock, clock_for, thread_limit
from medcli.schedule.spec import FULL
from medcli.settings.costs import BenchSettings
from medcli.settings.network import NetworkSource
from medcli.workflows.bench.loops import PLAN, NamedPlan, loop_variant
from medcli.workflows.bench.rows import VariantTiming, measure
from medcli.workflows.bench.run import machine_name, prepare
from medcli.workflows.bench.variants import (
    DENSE,
    TimedVariant,
    forward_variants,
    networks_by_count,
    unabsorbed_networks,
)
from papers_loop import papers_loop, papers_plan
from papers_network import PapersNetwork

PAPERS = "papers"
PAPERS_IMAGES = 2
"""Number of images of the papers' loop at most: it makes one at a time, so more add nothing but time."""


def compare_sampling(
    settings: BenchSettings,
    network: Network,
    plan: SamplingPlan | None,
    batch_size: int,
    device: torch.device,
    clock: Clock,
) -> dict[str, Any]:
    """Compare network calls at each count and, with a plan, sampling runs.

    Args:
        settings: Number format and timing.
        network: The network.
        plan: How to sample; None: network calls only.
        batch_size: Number of images of a network call, and of the engine's run.
        device: Where to run.
        clock: Clock of the timing.
    """
    model = network.load(dtype=torch.float32).to(device)
    weights = dict(model.state_dict())  # the papers' code computes in float32, whatever the model is cast to
    model = model.to(DTYPES[settings.dtype])
    how: dict[str, Any] = {"device": device, "dtype": settings.dtype, "compiled": settings.compiled}
    networks = networks_by_count(model, compiled=settings.compiled)
    unabsorbed = unabsorbed_networks(model, compiled=settings.compiled)

    def measured(variants: Sequence[TimedVariant], untimed: int) -> list[VariantTiming]:
        return measure(
            variants, untimed=untimed, repeats=settings.repeats, clock=clock, device=device, after_run=lambda: None
        )

    ours = forward_variants(networks, unabsorbed, batch_size=batch_size, **how)
    forwards = measured([*ours, *_papers_forwards(ours, networks, weights, device)], 2)
    found: dict[str, Any] = {"rows": _rows("forward", forwards), "agreement": None}
    if plan is not None:
        engines = [
            loop_variant(networks, kind, NamedPlan(kind, one), batch_size, **how)
            for kind, one in ((DENSE, replace(plan, schedule=FULL)), (PLAN, plan))
        ]
        loops = measured([*engines, _papers_run(engines[-1], networks, plan, weights, device)], 1)
        found["rows"] += _rows("loop", loops)
        found["agreement"] = agreement(loops[-2].images, loops[-1].images)
    return found


def _papers_forwards(
    ours: Sequence[TimedVariant],
    networks: Mapping[int, LadderNetwork],
    weights: Mapping[str, Tensor],
    device: torch.device,
) -> list[TimedVariant]:
    """Build the papers' network calls with the counts and batch size of ours."""
    made = []
    for variant in {variant.mediators: variant for variant in ours}.values():
        count = variant.mediators[0] if variant.mediators else 0
        network, inputs = (
            PapersNetwork(weights, networks[count].config, count),
            forward_inputs(networks[count], variant.num_images, device),
        )

        def run(network: PapersNetwork = network, inputs: tuple[Tensor, ...] = inputs) -> Sequence[FinishedImage]:
            with torch.no_grad(), _papers_products(ours[0], device):
                network(*inputs)
            return ()

        made.append(_papers_variant(variant, device, run))
    return made


def _papers_run(
    engine: TimedVariant,
    networks: Mapping[int, LadderNetwork],
    plan: SamplingPlan,
    weights: Mapping[str, Tensor],
    device: torch.device,
) -> TimedVariant:
    """Build the papers' sampling run of the engine's first images, with their noise drawn in advance."""
    papers = [PapersNetwork(weights, networks[0].config, count) for count in plan.schedule.counts]
    indices = range(min(engine.num_images, PAPERS_IMAGES))
    noise = drawn_in_advance(philox_noise(plan.seed, latent_shape_of(networks[0])), indices, plan.sampler.steps, device)

    def run() -> Sequence[FinishedImage]:
        with _papers_products(engine, device):
            return list(papers_loop(papers, plan, indices, noise=noise, device=device))

    return replace(_papers_variant(engine, device, run), num_images=len(indices))


def _papers_products(ours: TimedVariant, device: torch.device) -> AbstractContextManager[None]:
    """Multiply as the papers' code does, by TF32 on CUDA; beside our float32, as float32."""
    return products_of(ours.dtype) if ours.dtype == "fp32" else tf32(device)


def _papers_variant(
    ours: TimedVariant, device: torch.device, run: Callable[[], Sequence[FinishedImage]]
) -> TimedVariant:
    """Build the counterpart of one of our variants; the papers' code executes what the papers count."""
    dtype = TF32 if device.type == "cuda" and ours.dtype != "fp32" else "fp32"
    return replace(ours, name=PAPERS, dtype=dtype, compiled=False, executed_per_call=ours.gmacs_per_call, run=run)


def _rows(group: str, measured: Sequence[VariantTiming]) -> list[dict[str, Any]]:
    """Compare each variant with the papers' at the same counts, or with the only one there is."""
    papers = {one.variant.mediators: one.images_per_sec for one in measured if one.variant.name == PAPERS}
    only = next(iter(papers.values()))
    return [
        {
            "group": group,
            "variant": one.variant.name,
            "mediators": list(one.variant.mediators),
            "dtype": one.variant.dtype,
            "num_images": one.variant.num_images,
            "gmacs": one.gmacs(one.variant.gmacs_per_call),
            "gmacs_done": one.gmacs(one.variant.executed_per_call),
            "calls": None if one.calls is None else list(one.calls),
            "seconds_median": one.seconds.median,
            "seconds_q1": one.seconds.q1,
            "seconds_q3": one.seconds.q3,
            "images_per_sec": one.images_per_sec,
            "speedup_over_papers": one.images_per_sec / papers.get(one.variant.mediators, only),
            "peak_memory_mib": one.peak_memory_mib,
        }
        for one in measured
    ]


def agreement(engine: Sequence[FinishedImage], papers: Sequence[FinishedImage]) -> dict[str, Any]:
    """Compare the images of both loops: largest difference of latents relative to the largest element, and moves.

    Args:
        engine: Images of the engine.
        papers: Images of the papers' loop; the engine made them too.
    """
    by_index = {image.index: image for image in engine}
    pairs = [(by_index[image.index], image) for image in papers]
    differences = [
        float((one.latent_CYX - other.latent_CYX).abs().max() / other.latent_CYX.abs().max()) for one, other in pairs
    ]
    return {
        "num_images": len(pairs),
        "max_relative_difference": max(value if math.isfinite(value) else math.inf for value in differences),
        "same_moves": all(one.switch_steps == other.switch_steps for one, other in pairs),
    }


def drawn_in_advance(noise: Noise, indices: Sequence[int], num_draws: int, device: torch.device) -> Noise:
    """Draw the noise of some images and keep it on the CPU, so that timing excludes random number generation.

    Args:
        noise: Draws it.
        indices: The images.
        num_draws: Number of draws per image.
        device: Where to draw, since a GPU's logarithm may differ in the last bit.

    Returns:
        Noise of one of these images and draws at a time, index and draw on the CPU.
    """
    draw_L = torch.arange(num_draws, device=device)
    table = {index: noise(torch.full_like(draw_L, index), draw_L).cpu() for index in indices}

    def recorded(index_B: Tensor, draw_B: Tensor) -> Tensor:
        return table[int(index_B)][int(draw_B)][None]

    return recorded


def main(argv: Sequence[str]) -> None:
    """Parse the command line, measure and print JSON."""
    args = _parser().parse_args(argv)
    settings = BenchSettings(
        network=NetworkSource(
            checkpoint=args.model,
            weights=None,
            mediators=None if args.mediators is None else tuple(map(int, args.mediators.split(","))),
            layers=args.layers,
            res=args.res,
        ),
        batch_size=args.batch_size,
        dtype=args.dtype,
        compiled=args.compile,
        repeats=args.repeats,
        device=args.device,
        num_threads=args.threads,
    )
    network, device, settings = prepare(settings, Silent())
    with thread_limit(args.threads) as threads, products_of(settings.dtype):
        clock = clock_for(device, threads)
        if args.train:
            found = compare_training(settings, network, args.batch_size, device, clock, args.vae)
        else:
            plan = papers_plan(network.config, args.steps, args.batch_size)
            found = compare_sampling(settings, network, plan, args.batch_size, device, clock)
    about = {"model": network.name, "machine": machine_name(device), "threads": threads, "clock": clock.name}
    sys.stdout.write(json.dumps({**about, "batch_size": args.batch_size, **found}, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Time medcli against the papers' code.")
    parser.add_argument("model", nargs="?", help="checkpoint or preset (SiT-S/2)")
    parser.add_argument("--train", action="store_true", help="compare a training step instead of sampling")
    parser.add_argument("--vae", help="autoencoder that the papers' training loop encodes images with in each step")
    parser.add_argument("--steps", type=int, default=5, help="solver steps of the sampling runs; 0: network calls only")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--res", type=int, help="resolution in pixels")
    parser.add_argument("--mediators", help="mediator counts, such as 4,16,64")
    parser.add_argument("--layers", help="blocks with mediators, such as 0-3")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32", help="number format of medcli")
    parser.add_argument("--compile", action="store_true", help="compile medcli's networks")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
