"""Test the papers' claims on a bundled model: `python docs/scripts/claims.py CLAIM... -o FOLDER`.

    a     mediators are better and cheaper than full attention
    b     attention is most redundant at the first steps
    c     a dynamic schedule beats a constant count at equal cost
    d     L1 beats L2 as the distance of the dynamic schedule
    e     the speed-up grows with the resolution
    f     mediators in the first layers only are the better choice
    g     few network calls are as good as many
    self  images that the model drew serve as well as real ones

Networks that are compared have the same parent (the bundled model without mediators), steps, batches and teacher.
Images of a seed share noise and labels, so differences are taken seed by seed. Everything is kept in FOLDER: the same
command continues, and prints a table and a word for each claim: confirmed or refuted if the difference is significant
at the 5 % level over the seeds, else unclear. One training seed: error bars are of sampling. Figures:
docs/dynamic-vs-static.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from claims_study import Scores, Study, Values, minus, parent, run, scores, shown, table, trained, word
from schedule_comparison import interpolated

FEW = ("--sampler", "ode", "--solver", "adams3", "--steps", "12")
SDE = ("--sampler", "sde", "--steps", "40", "--cfg-scale", "1")
LADDER = ("4", "16", "64")
RES_PX = ("32", "64")


def better_and_cheaper(study: Study) -> list[str]:
    """(a) Fine-tuned mediators against as many more steps of full attention."""
    media = trained(study, "all", "--mediators", 16, "--layers", "all", "--calibrate")
    rows = {
        "full attention, trained on (control)": scores(study, "control", trained(study, "control"), *FEW),
        "16 mediators": scores(study, "all", media, *FEW),
        "parent": scores(study, "parent", parent(study), *FEW),
    }
    control, ours = list(rows.values())[:2]
    better, cheaper = word(minus(ours["fid"], control["fid"])), word(minus(ours["gmacs"], control["gmacs"]))
    return [*table(rows, next(iter(rows))), f"better: {better}; cheaper: {cheaper}"]


def redundant_early(study: Study) -> list[str]:
    """(b) Divergence between queries at the first and the last quarter of the steps; low is redundant."""
    gaps: Values = []
    for seed in study.seeds:
        folder = study.folder / f"analysis-{seed}"
        if not folder.exists():
            size = ("--num-images", 8, "--points", 12, "--seed", seed, "--cfg-scale", 1)
            run("analyze", study.bundle, *FEW, *size, "-o", folder)
        found = json.loads((folder / "analysis.json").read_text())["redundancy"]
        by_step = np.array(found).mean(axis=0)
        quarter = max(1, len(by_step) // 4)
        gaps.append(float(by_step[:quarter].mean() - by_step[-quarter:].mean()))
    mean = f"first quarter minus last, mean over the layers: {shown(gaps, 3)} nats"
    return [mean, f"most redundant at the first steps: {word(gaps)}"]


def statics(study: Study, *flags: object, kind: str) -> dict[str, Scores]:
    """Score each count of the bundled ladder."""
    return {
        f"{count} mediators": scores(
            study, f"{kind}-{count}", study.bundle, *flags, "--schedule", "static", "--mediators", count
        )
        for count in LADDER
    }


def beside_line(found: Scores, line: dict[str, Scores]) -> Values:
    """Return FID minus that of constant counts at the same cost, by seed."""
    return [
        fid - interpolated([(each["gmacs"][place], each["fid"][place]) for each in line.values()], gmacs)
        for place, (fid, gmacs) in enumerate(zip(found["fid"], found["gmacs"], strict=True))
    ]


def dynamic(study: Study, distance: str, rho: str) -> Scores:
    """Score a dynamic schedule of the SDE."""
    flags = ("--schedule", "dynamic", "--rho", rho, "--distance", distance)
    return scores(study, f"dynamic-{distance}", study.bundle, *SDE, *flags)


def rising_counts(study: Study) -> list[str]:
    """(c) The dynamic rule on the SDE, and a rising count by progress on few calls, each against constant counts."""
    fixed = statics(study, *SDE, kind="sde")
    moved = dynamic(study, "l1", "0.3,0.1")
    few = (*FEW, "--cfg-scale", "1")
    fixed_few = statics(study, *few, kind="few")
    timed = scores(
        study, "timed", study.bundle, *few, "--schedule", "timed", "--mediators", "4,16,64", "--at", "0.33,0.66"
    )
    gaps = {"dynamic, SDE": beside_line(moved, fixed), "timed, 12 calls": beside_line(timed, fixed_few)}
    lines = [*table({**fixed, "dynamic": moved}), "", *table({**fixed_few, "timed": timed})]
    return [
        *lines,
        *(f"{name}, FID less constant counts at equal cost: {shown(gap)}: {word(gap)}" for name, gap in gaps.items()),
    ]


def first_norm(study: Study) -> list[str]:
    """(d) Both distances, at thresholds that move at about the same steps."""
    fixed = statics(study, *SDE, kind="sde")
    one, two = dynamic(study, "l1", "0.3,0.1"), dynamic(study, "l2", "0.09,0.01")
    gap = minus(beside_line(one, fixed), beside_line(two, fixed))
    return [*table({"L1": one, "L2": two}), f"L1 less L2, each at its cost: {shown(gap)}: {word(gap)}"]


def larger_images(study: Study) -> list[str]:
    """(e) Network calls at two resolutions, in MACs and seconds."""
    lines = ["| px | mediators | MACs saved % | times faster |", "| --- | --- | --- | --- |"]
    for res in RES_PX:
        rows = run("bench", study.bundle, "--res", res, "--dtype", "bf16", "--threads", 1, "--steps", 0)["rows"]
        dense = rows[0]["gmacs"]
        for row in rows:
            if row["variant"] == "mediators":
                saved = 100 * (1 - row["gmacs"] / dense)
                lines.append(f"| {res} | {row['mediators'][0]} | {saved:.0f} | {row['ratio_to_dense']:.2f} |")
    return lines


def first_layers(study: Study) -> list[str]:
    """(f) Mediators in the first half of the layers against all, after the same training."""
    fine = ("--mediators", 16, "--calibrate")
    rows = {
        "all layers": scores(study, "all", trained(study, "all", *fine, "--layers", "all"), *FEW),
        "first half": scores(study, "first", trained(study, "first", *fine, "--layers", "0-3"), *FEW),
    }
    gap = minus(rows["first half"]["fid"], rows["all layers"]["fid"])
    return [*table(rows, "all layers"), f"the first layers only give better images (at less saving): {word(gap)}"]


def few_calls(study: Study) -> list[str]:
    """(g) The same network with 8, 12 and 40 calls."""
    plain = ("--schedule", "static", "--mediators", "16", "--sampler", "ode", "--solver", "adams3", "--cfg-scale", "1")
    names = {40: "few-16-40", 12: "few-16", 8: "few-16-8"}
    rows = {
        f"{calls} calls": scores(study, name, study.bundle, *plain, "--steps", calls) for calls, name in names.items()
    }
    gaps = {name: minus(found["fid"], rows["40 calls"]["fid"]) for name, found in rows.items() if name != "40 calls"}
    words = {"confirmed": "better than 40", "refuted": "worse than 40", "unclear": "no difference found"}
    return [*table(rows, "40 calls"), *(f"{name}: {words[word(gap)]}" for name, gap in gaps.items())]


def own_images(study: Study) -> list[str]:
    """Real images against the same training on images that the parent drew."""
    fine = ("--mediators", 16, "--layers", "all", "--calibrate")
    drawn = ("--data", "self", "--num-images", study.num_drawn)
    rows = {
        "real images": scores(study, "all", trained(study, "all", *fine), *FEW),
        "its own images": scores(study, "self", trained(study, "self", *fine, *drawn), *FEW),
    }
    gap = minus(rows["its own images"]["fid"], rows["real images"]["fid"])
    found = {"confirmed": "better", "refuted": "worse", "unclear": "no difference found"}[word(gap)]
    return [*table(rows, "real images"), f"its own images against real ones: {found}"]


CLAIMS: dict[str, Callable[[Study], list[str]]] = {
    "a": better_and_cheaper,
    "b": redundant_early,
    "c": rising_counts,
    "d": first_norm,
    "e": larger_images,
    "f": first_layers,
    "g": few_calls,
    "self": own_images,
}


def main(argv: Sequence[str]) -> None:
    """Parse the command line and print what was found."""
    parser = argparse.ArgumentParser(description="Test the papers' claims on a bundled model.")
    parser.add_argument("claims", nargs="+", choices=CLAIMS)
    parser.add_argument("-o", "--output", type=Path, default=Path("claims"))
    parser.add_argument("--bundle", default="fashion")
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3, help="number of sampling seeds, from 0")
    parser.add_argument("--steps", type=int, default=100, help="training steps of each network")
    parser.add_argument("--drawn", type=int, default=1000, help="images that the model draws for `self`")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    study = Study(
        folder=args.output,
        bundle=args.bundle,
        num_images=args.num_images,
        seeds=tuple(range(args.seeds)),
        steps=args.steps,
        num_drawn=args.drawn,
    )
    for claim in args.claims:
        sys.stdout.write(f"## {claim}\n\n" + "\n".join(CLAIMS[claim](study)) + "\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
