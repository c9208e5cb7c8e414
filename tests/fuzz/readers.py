"""List what is damaged and which commands then read it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.fuzz import containers as c
from tests.fuzz import mutators as m
from tests.fuzz.samples import ANALYZE, CLASSIFIER, LATENTS, REFERENCE, SAMPLE, SCORE, SCORED, SHARDS, TRAIN, TUNE

Words = tuple[str, ...]

ONE_STEP = ("--steps", "1", "--global-batch-size", "2", "--preview-every", "0", "--device", "cpu", "-o", "o", "-q")
FEW = ("--num-images", "2", "--steps", "3", "--device", "cpu", "-o", "o", "-q")


@dataclass(frozen=True)
class Reader:
    """Files (patterns), how they are damaged, and the commands that read them (one is drawn)."""

    files: tuple[str, ...]
    mutator: m.Mutator
    commands: tuple[Words, ...]
    folders: tuple[str, ...] = ()
    """Folders one of which is now and then damaged as a folder is: links, other pictures, exchanged files."""


def official(name: str) -> tuple[Words, ...]:
    """Commands that read a checkpoint in the official layout."""
    hints = ("--heads", "2", "--family", "sit")
    return (
        ("inspect", name, *hints),
        ("convert", name, *hints, "--layers", "none", "-o", "o.safetensors", "-q"),
        ("convert", name, *hints, "--mediators", "1,4", "--weights", "model", "-o", "o.safetensors", "-q"),
        ("flops", name, *hints, "--mediators", "1,4"),
    )


def with_value(line: Words, flag: str, value: str) -> Words:
    """Give one flag of a line another value."""
    at = line.index(flag) + 1
    return (*line[:at], value, *line[at + 1 :])


def with_extractor(name: str) -> Words:
    """Score with the extractor of a file."""
    return ("fid", "s.npz", "s.npz", "--extractor", name, "--no-cache", "-q")


TRAIN_PHOTOS = ("finetune", "rgb.safetensors", "--data", "photos", *ONE_STEP)
TRAIN_ON = with_value(TRAIN, "--steps", "6")
SAMPLE_AGAIN = with_value(SAMPLE, "--num-images", "8")
REPORT = ("report", "samp", "-o", "r.html", "-q")
MERGE = ("merge", "part-0", "part-1", "-o", "m", "-q")
FROM_STORE = ("finetune", "lat.safetensors", "--data", "store", *ONE_STEP)

LIGHTNING = (
    ("inspect", "ld/tiny.pt"),
    ("convert", "ld/tiny.pt", "--mediators", "1,4", "-o", "o.safetensors", "-q"),
    ("flops", "ld/tiny.pt", "--mediators", "4"),
)
LDM_LATENTS = ("latents", "photos", "--vae", "vavae.pt", "--res", "16", "--device", "cpu", "-o", "o", "-q")

READERS: dict[str, Reader] = {
    "torch zip": Reader(("sit.pt",), c.torch_zip_changed, official("sit.pt")),
    "torch legacy": Reader(("legacy.pt",), m.bytes_changed, official("legacy.pt")),
    "safetensors": Reader(("bare.safetensors",), c.safetensors_changed, official("bare.safetensors")),
    "own checkpoint": Reader(
        ("pix.safetensors",),
        c.safetensors_changed,
        (
            ("inspect", "pix.safetensors"),
            ("sample", "pix.safetensors", *FEW),
            ("convert", "pix.safetensors", "--mediators", "4", "-o", "o.safetensors", "-q"),
            ("flops", "pix.safetensors", "--schedule", "static", "--steps", "5"),
            ("finetune", "pix.safetensors", "--data", "digits", *ONE_STEP),
        ),
    ),
    "diffusers": Reader(
        ("dit/*.json", "dit/transformer/*.json"),
        m.json_changed,
        (
            ("inspect", "dit"),
            ("convert", "dit", "--layers", "none", "-o", "o.safetensors", "-q"),
            ("sample", "dit", "--classes", "dog,house cat", "--vae", "vae", *FEW),
        ),
    ),
    "repa": Reader(
        ("repa.pt",),
        c.torch_zip_changed,
        (
            ("inspect", "repa.pt"),
            ("convert", "repa.pt", "--mediators", "1,4", "-o", "o.safetensors", "-q"),
            ("sample", "repa.pt", "--vae", "vae", *FEW),
        ),
    ),
    "lightningdit": Reader(("ld/tiny.pt",), c.torch_zip_changed, LIGHTNING),
    "lightningdit statistics": Reader(("ld/latents_stats.pt",), c.torch_zip_changed, LIGHTNING),
    "lightningdit settings": Reader(("ld/tiny.yaml",), m.text_changed, LIGHTNING),
    "ldm autoencoder": Reader(("vavae.pt",), c.torch_zip_changed, (LDM_LATENTS,)),
    "autoencoder": Reader(
        ("vae/config.json",), m.json_changed, (LATENTS, ("sample", "lat.safetensors", "--vae", "vae", *FEW))
    ),
    "autoencoder weights": Reader(
        ("vae/*.safetensors",), c.safetensors_changed, (LATENTS, ("sample", "lat.safetensors", "--vae", "vae", *FEW))
    ),
    "images": Reader(
        ("photos/*/*",), c.png_changed, (TRAIN_PHOTOS, ("fid", "photos", "ref.npz", "-q", "--no-cache"), LATENTS)
    ),
    "sample images": Reader(("samp/0*.png",), c.png_changed, (("fid", "samp", "ref.npz", "-q"), SAMPLE_AGAIN, REPORT)),
    "npz samples": Reader(("s.npz",), c.npz_changed, (SCORE, ("fid", "s.npz", "ref.npz", "-q"), REFERENCE)),
    "npz reference": Reader(
        ("ref.npz",), c.npz_changed, (("fid", "s.npz", "ref.npz", "-q"), ("fid", "ref.npz", "ref.npz", "-q"))
    ),
    "labels json": Reader(
        ("photos/labels.json",),
        m.json_changed,
        (("finetune", "rgb.safetensors", "--data", "photos/labels.json", *ONE_STEP),),
    ),
    "labels csv": Reader(
        ("photos/labels.csv",),
        m.text_changed,
        (("finetune", "rgb.safetensors", "--data", "photos/labels.csv", *ONE_STEP),),
    ),
    "manifest": Reader(
        ("samp/manifest.json",),
        m.json_changed,
        (
            REPORT,
            ("fid", "samp", "-q"),
            ("flops", "pix.safetensors", "--manifest", "samp"),
            SAMPLE_AGAIN,
        ),
    ),
    "image records": Reader(
        ("samp/images.jsonl",),
        m.lines_changed,
        (REPORT, ("flops", "pix.safetensors", "--manifest", "samp"), SAMPLE_AGAIN),
    ),
    "lines of processes": Reader(
        ("part-*/.processes/*.jsonl",),
        m.record_lines_changed,
        (
            MERGE,
            (*SHARDS[1], "--npz"),
            (*SAMPLE[:-3], "-o", "part-1", "-q"),
            ("report", "part-1", "-o", "r.html", "-q"),
            ("flops", "pix.safetensors", "--manifest", "part-1"),
        ),
    ),
    "merge": Reader(
        ("part-*/manifest.json", "part-*/0*.png", "samp/*.json*"),
        m.any_changed,
        (MERGE, (*MERGE, "--npz"), ("merge", "part-0", "part-1", "-q"), ("merge", "part-1", "part-1", "samp")),
        folders=("part-0", "part-1", "samp", "slots"),
    ),
    "scores of a folder": Reader(
        ("samp/scores.json",), m.json_changed, (REPORT, SCORED, ("fid", "samp", "--metrics", "fid,is", "-q"))
    ),
    "unfinished archive": Reader(
        ("slots/.samples-*",),
        m.bytes_changed,
        ((*with_value(SAMPLE_AGAIN, "-o", "slots"), "--npz"), ("merge", "slots", "--npz", "-q")),
        folders=("slots",),
    ),
    "timed header": Reader(
        ("timed.safetensors",),
        c.safetensors_changed,
        (
            ("sample", "timed.safetensors", *FEW),
            ("sample", "timed.safetensors", "--num-images", "1", "--dry-run", "-q"),
            ("analyze", "timed.safetensors", *FEW, "--steps", "6", "--points", "2"),
            ("bench", "timed.safetensors", "--repeats", "1", "--num-images", "1", "-q"),
            ("finetune", "timed.safetensors", "--data", "digits", *ONE_STEP),
        ),
    ),
    "latents index": Reader(("store/latents.json",), m.json_changed, (LATENTS, FROM_STORE)),
    "latents": Reader(("store/*.safetensors",), c.safetensors_changed, (LATENTS, FROM_STORE)),
    "training state": Reader(
        ("run/state-00000004.safetensors", "run/state-*.safetensors"),
        c.safetensors_changed,
        (TRAIN_ON,),
    ),
    "training records": Reader(
        ("run/config.json", "run/metrics.jsonl"),
        m.lines_changed,
        (TRAIN_ON,),
    ),
    "tuning": Reader(
        ("t/*.json", "t/runs/*.json", "t/fits/*.json"), m.json_changed, (TUNE, ("report", "t", "-o", "r.html", "-q"))
    ),
    "tuning tensors": Reader(("t/*.npy",), m.bytes_changed, (TUNE,)),
    "analysis": Reader(("a/analysis.json",), m.json_changed, (("report", "samp", "a", "-o", "r.html", "-q"), ANALYZE)),
    "scores": Reader(
        ("scores.json",),
        m.json_changed,
        (("report", "samp", "scores.json", "-o", "r.html", "-q"), ("fid", "--compare", "scores.json", "scores.json")),
    ),
    "plan": Reader(
        ("plan.json",),
        m.plan_changed,
        (
            ("sample", "pix.safetensors", "--plan", "plan.json", "--num-images", "1", "-o", "o", "-q"),
            ("bench", "pix.safetensors", "--plan", "plan.json", "--repeats", "1", "--num-images", "1", "-q"),
        ),
    ),
    "own extractor": Reader(("own.safetensors",), c.safetensors_changed, (with_extractor("own.safetensors"),)),
    "torchscript": Reader(("net.pt",), c.torch_zip_changed, (with_extractor("net.pt"),)),
    "images of an extractor": Reader(("photos/*/*",), c.png_changed, (CLASSIFIER,)),
    "feature cache": Reader((".cache/**/*.safetensors",), c.safetensors_changed, (SCORE, ("fid", "s.npz", "digits"))),
    "config": Reader(
        ("config.toml",), m.text_changed, (("sample", "pix.safetensors", "--config", "config.toml", "-q"),)
    ),
    "config from a run": Reader(
        ("samp/manifest.json",),
        m.json_changed,
        (("sample", "pix.safetensors", "--config", "samp/manifest.json", "-o", "o", "-q"),),
    ),
    "config from training": Reader(
        ("run/config.json",),
        m.json_changed,
        (("finetune", "--config", "run/config.json", "--dry-run", "-o", "o", "-q"),),
    ),
}

FLAGS: dict[str, tuple[Words, tuple[str, ...]]] = {
    "sample": (
        ("sample", "pix.safetensors", *FEW),
        ("--rho", "--warmup-steps", "--mediators", "--steps", "--seed", "--num-images", "--classes", "--cfg-scale")
        + ("--cfg-interval", "--solver", "--last-step-size", "--diffusion-norm", "--batch-size", "--stage", "--path")
        + (
            "--device",
            "--vae",
            "--schedule",
            "--distance",
            "--heads",
            "--plan",
            "--save-plan",
            "--at",
            "--grid",
            "--time-shift",
            "--cfg-power",
            "--amm",
            "--amm-blocks",
            "-o",
        ),
    ),
    "convert": (
        ("convert", "pix.safetensors", "-o", "o.safetensors", "-q"),
        ("--mediators", "--layers", "--res", "--num-classes", "--heads", "--family", "--weights", "--to", "-o"),
    ),
    "flops": (
        ("flops", "pix.safetensors"),
        (
            "--res",
            "--mediators",
            "--layers",
            "--qk-ratio",
            "--rho",
            "--steps",
            "--cfg-scale",
            "--manifest",
            "--sampler",
        ),
    ),
    "finetune": (
        ("finetune", "pix.safetensors", "--data", "digits", *ONE_STEP),
        ("--data", "--lr", "--ema", "--grad-clip", "--label-dropout", "--steps", "--global-batch-size", "--resume")
        + ("--micro-batch-size", "--lr-decay", "--freeze", "--num-classes", "--mediators", "--layers", "--eval-images")
        + (
            "--save-every",
            "--keep-last",
            "--log-every",
            "--distill",
            "--distill-weight",
            "--min-snr",
            "--seed",
            "--res",
        ),
    ),
    "analyze": (
        ("analyze", "pix.safetensors", "--warmup-steps", "1", *FEW, "--steps", "6"),
        ("--points", "--pairs", "--rho", "--warmup-steps", "--cfg-scale", "--classes", "--steps", "--num-images", "-o"),
    ),
    "tune": (
        TUNE,
        (
            "--saving",
            "--calls",
            "--seconds",
            "--num-images",
            "--mediators",
            "--metric",
            "--reference",
            "--extractor",
            "-o",
        ),
    ),
    "fid": (
        SCORE,
        ("--metrics", "--num-images", "--batch-size", "--device", "--extractor", "--extractor-weights", "--cache-dir"),
    ),
    "latents": (LATENTS, ("--res", "--shard-size", "--batch-size", "--vae", "-o", "--dtype")),
    "report": (REPORT, ("--title", "--pictures", "-o")),
}
"""For each command: a good line, and flags that are given nonsense."""

FLAG_LINES = tuple(line for line, _ in FLAGS.values())

WORDS = (
    *(
        "",
        "0",
        "-1",
        "1",
        "nan",
        "inf",
        "-inf",
        "1e308",
        "1e-320",
        "99999999999999999999",
        "1_6",
        "٤",
        "0x10",
        " 4",
        "4,",
        ",",
    )
    + (
        "4,16",
        "16,4",
        "4,4",
        "0.5",
        "0.3,0.1",
        "all",
        "none",
        "auto",
        "x",
        "../x",
        "/dev/zero",
        "/dev/null",
        "/dev/full",
        "/proc/self/mem",
    )
    + (
        "~",
        ".",
        "/",
        "d/" * 300 + "x",
        "a" * 300,
        "\x1b[31m",
        "0-3",
        "3-0",
        "0-99999999999",
        "1=2",
        "4=pix.safetensors",
        "é",
        "%s",
    )
    + (
        "pix.safetensors",
        "photos",
        "samp",
        "store",
        "s.npz",
        "ref.npz",
        "digits",
        "run",
        "vae",
        "--json",
        "50%",
        "-5%",
        "1000%",
    ),
)


def nonsense(chance: Random) -> Words:
    """Draw a command line with one to three flags given nonsense."""
    line, flags = FLAGS[chance.choice(list(FLAGS))]
    for _ in range(chance.choice((1, 1, 2, 3))):
        flag, word = chance.choice(flags), chance.choice(WORDS)
        line = (*line, f"{flag}={word}") if flag.startswith("--") else (*line, flag, word)
    return line
