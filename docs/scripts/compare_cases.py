"""List the commands `compare_outputs.py` runs, and what of their results may differ.

In the lines, `in/` is the folder of inputs (`compare_inputs.py`); every case starts in an empty folder.
`tune` is missing: it was built anew, with another budget, search and report. `--calibrate` is: its sizes changed.
Layers and the model of digits are named, so that changed defaults hide no difference.
"""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE = "sample in/pixel-sit.safetensors -o s --num-images 6 --seed 1 --device cpu"
LADDER = "convert in/pixel-sit.safetensors --layers all --mediators 1,4,16 -o ladder.safetensors"
LADDER_SAMPLE = "sample ladder.safetensors -o s --num-images 6 --seed 1 --device cpu"
TRAIN = (
    "finetune ladder.safetensors --data digits --global-batch-size 8 --preview-every 0 --lr 1e-3 --ema 0.5 --device cpu"
)
FULL_RUN = "sample in/pixel-sit.safetensors -o full --num-images 24 --seed 2 --device cpu -q"


@dataclass(frozen=True)
class Case:
    """Commands run one after another in one folder, and how their results are compared."""

    lines: tuple[str, ...]
    keys_only: bool = False
    """Compare the JSON's keys and the exit codes, no values and no files: measured times and memory."""
    ignored_keys: tuple[str, ...] = ()
    """Keys of this case's JSON whose values may differ, beside `IGNORED_KEYS`."""
    needs: str = ""
    """File of the package without which OLD has no such command or flag; the case is skipped then."""


CASES: dict[str, Case] = {
    "convert-dit": Case(("convert in/dit.pt --family dit --heads 2 -o out.safetensors",)),
    "convert-sit": Case(("convert in/sit.pt --heads 2 --mediators 4,16 --layers all -o out.safetensors",)),
    "convert-sit-model": Case(("convert in/sit.pt --heads 2 --weights model --layers none -o out.safetensors",)),
    "convert-prefixed": Case(("convert in/sit_prefixed.pt --heads 2 --weights model -o out.safetensors",)),
    "convert-training-file": Case(("convert in/sit_train.pt --heads 2 -o out.safetensors",)),
    "convert-mediators": Case(("convert in/mediator_epoch_004.pt -o out.safetensors",)),
    "convert-edt": Case(("convert in/edt.pt --layers 0-3 -o out.safetensors",)),
    "convert-mdtv2": Case(("convert in/mdtv2.pt --heads 4 --layers 0-3 -o out.safetensors",)),
    "convert-diffusers": Case(("convert in/diffusers_dit -o out.safetensors",)),
    "convert-diffusers-bin": Case(("convert in/diffusers_dit_legacy --layers none -o out.safetensors",)),
    "convert-to-official": Case(
        (
            "convert in/dit.pt --family dit --heads 2 --layers none --to official -o out.pt",
            "convert in/dit.pt --family dit --heads 2 --layers none --to diffusers -o out",
        )
    ),
    "convert-resized": Case(("convert in/sit.pt --heads 2 --res 128 --num-classes 4 -o out.safetensors",)),
    "convert-own": Case((LADDER, "convert ladder.safetensors --mediators 4,16 --layers 1 -o again.safetensors")),
    "inspect": Case(
        (
            "inspect in/sit_train.pt --heads 2",
            "inspect in/mediator_epoch_004.pt",
            "inspect in/edt.pt",
            "inspect in/mdtv2.pt --heads 4",
            "inspect in/diffusers_dit",
            "inspect in/pixel-dit.safetensors",
        )
    ),
    "flops": Case(
        (
            "flops --layers 0-3",
            "flops --res 256,512 --mediators 4,16 --layers all",
            "flops EDT-S MDTv2-S/2 DiT-B/4 --layers 0-3",
        )
    ),
    "flops-images": Case(
        (
            "flops SiT-S/2 --layers 0-3 --schedule dynamic --rho 0.3,0.1 --steps 50 --cfg-scale 1.5",
            "flops SiT-S/2 --layers 0-3 --schedule static --mediators 16 --sampler ode --solver heun --steps 20",
            "flops SiT-S/2 --layers 0-3 --qk-ratio 0.75,0.5",
        )
    ),
    "flops-manifest": Case(
        (LADDER, f"{LADDER_SAMPLE} --schedule dynamic --rho 0.98,0.9", "flops ladder.safetensors --manifest s")
    ),
    "sample-full": Case((f"{SAMPLE} --npz", f"{SAMPLE} --npz")),
    "sample-more": Case((SAMPLE, SAMPLE.replace("--num-images 6", "--num-images 9"))),
    "sample-static": Case((LADDER, f"{LADDER_SAMPLE} --schedule static --mediators 4 --classes 3,5")),
    "sample-dynamic": Case((LADDER, f"{LADDER_SAMPLE} --schedule dynamic --rho 0.98,0.9 --batch-size 4")),
    "sample-dynamic-l2": Case(
        (LADDER, f"{LADDER_SAMPLE} --schedule dynamic --rho 0.98,0.9 --distance l2 --warmup-steps 2 --steps 9")
    ),
    "sample-sde-heun": Case((f"{SAMPLE} --solver heun --diffusion-form linear --last-step tweedie",)),
    "sample-sde-paths": Case((f"{SAMPLE} --path gvp --prediction noise --label-sampling random",)),
    "sample-ode": Case((f"{SAMPLE} --sampler ode --solver dopri5 --steps 4",)),
    "sample-ode-heun": Case((f"{SAMPLE} --sampler ode --solver heun --steps 4 --cfg-scale 2 --cfg-channels all",)),
    "sample-interval": Case((f"{SAMPLE} --cfg-scale 2 --cfg-interval 0.3,0.8",)),
    "sample-cfg-power": Case((SAMPLE.replace("pixel-sit", "pixel-dit") + " --cfg-scale 2 --cfg-power 2",)),
    "sample-ddpm": Case((SAMPLE.replace("pixel-sit", "pixel-dit"),)),
    "sample-ddim": Case((SAMPLE.replace("pixel-sit", "pixel-dit") + " --sampler ddim --steps 5",)),
    "sample-stages": Case(
        (
            "convert in/pixel-sit.safetensors --layers all --mediators 4 -o a.safetensors",
            "convert in/pixel-sit.safetensors --layers all --mediators 16 -o b.safetensors",
            "sample --stage 4=a.safetensors --stage 16=b.safetensors --schedule dynamic --rho 0.95 -o s --num-images 4",
        )
    ),
    "sample-vae": Case(("sample in/sit.pt --heads 2 --vae in/vae -o s --num-images 2 --steps 4 --device cpu",)),
    "sample-edt": Case(
        ("sample in/edt.pt --vae in/vae -o s --num-images 2 --steps 4 --amm auto --amm-blocks 8,10 --device cpu",)
    ),
    "sample-mdtv2": Case(("sample in/mdtv2.pt --heads 4 --vae in/vae -o s --num-images 2 --steps 4 --device cpu",)),
    "sample-bundled": Case(
        (
            "sample in/digits-sit.safetensors --sampler sde --schedule dynamic --steps 8 --num-images 4 -o s",
            "sample in/digits-sit.safetensors --sampler sde --schedule full --steps 4 --num-images 2",
        )
    ),
    "sample-shards": Case(
        (f"{SAMPLE} --shard 1/2", f"{SAMPLE} --shard 2/2".replace("-o s", "-o b"), "merge s b -o whole", "merge s"),
        ignored_keys=("start",),
        needs="medcli/cli/merge.py",
    ),
    "latents": Case(("latents in/photos --vae in/vae --res 64 --shard-size 4 --device cpu -o out",) * 2),
    "fid-folders": Case((f"{FULL_RUN} --npz", "fid full --metrics fid,kid,precision,recall", "fid full/samples.npz")),
    "fid-compare": Case((FULL_RUN, f"{FULL_RUN} --cfg-scale 3 -o b", "fid --compare full b --reference digits")),
    "fid-reference": Case((FULL_RUN, "fid full --write-reference ref.npz --extractor digits", "fid full ref.npz")),
    "fid-check": Case(
        (
            FULL_RUN,
            "fid full --write-reference ref.npz --extractor digits",
            "fid full ref.npz >a.json",
            "fid full --metrics fid >b.json",
            "fid --compare a.json b.json",
        )
    ),
    "finetune": Case(
        (LADDER, f"{TRAIN} --steps 3 -o run", f"{TRAIN} --steps 5 -o run", "inspect run/checkpoint.safetensors")
    ),
    "finetune-options": Case(
        (
            LADDER,
            f"{TRAIN} --steps 3 --micro-batch-size 4 --ladder-rule split --train attention --control "
            "--eval-images 8 --optimizer adan --lr-decay 1e-4,3 -o run",
        )
    ),
    "finetune-latents": Case(
        (
            "latents in/photos --vae in/vae --res 64 --device cpu -o out -q",
            "finetune in/sit.pt --heads 2 --data out --mediators 4 --num-classes 2 --steps 3 --global-batch-size 4 "
            "--micro-batch-size 4 --preview-every 0 --save-every 2 --vae in/vae --device cpu -o run",
        )
    ),
    "finetune-masked": Case(
        (
            "latents in/photos --vae in/vae --res 128 --device cpu -o out -q",
            "finetune in/edt.pt --data out --num-classes 2 --steps 2 --global-batch-size 4 --preview-every 0 "
            "--mask down --timesteps loss --vae in/vae --device cpu -o run",
        )
    ),
    "finetune-distill": Case((LADDER, f"{TRAIN} --steps 2 --distill in/pixel-sit.safetensors -o run")),
    "finetune-dry-run": Case((LADDER, f"{TRAIN} --steps 3 --dry-run"), keys_only=True),
    "analyze": Case((LADDER, "analyze ladder.safetensors --num-images 3 --points 3 --rho 0.99,0.9 -o a --device cpu")),
    "report": Case(
        (FULL_RUN, "fid full >scores.json", "report full scores.json -o page.html"),
        ignored_keys=("sha256", "num_bytes"),
    ),
    "demo": Case(("demo --num-images 10 --device cpu -o d",), keys_only=True),
    "doctor": Case(("doctor",), keys_only=True),
    "bench": Case(("bench in/pixel-sit.safetensors --repeats 1 --batch-size 2 --threads 1 --steps 2",), keys_only=True),
    "wrong-usage": Case(
        (
            "sample --no-such-flag",
            "sample --steps 0",
            "sample --schedule static --rho 0.3",
            "flops --res 100",
            "convert in/pixel-sit.safetensors --mediators 5",
            "finetune --steps -1",
            "fid --metrics fidd",
        )
    ),
    "wrong-checkpoint": Case(
        (
            "convert nothing.pt",
            "convert in/cut.pt --heads 2",
            "inspect in/cut.safetensors",
            "inspect in/empty.pt",
            "sample in/not_a_model.pt",
            "convert in/dit.pt",
        )
    ),
    "wrong-data": Case(
        (
            "fid nothing in/grey-a",
            "fid in/grey-b in/grey-a.npz --extractor digits",
            "fid in/grey-a in/bad_reference.npz --extractor digits",
            "latents nothing --vae in/vae",
            "finetune --data nothing",
            "report nothing",
        )
    ),
    "wrong-machine": Case(("sample --device cuda:7", "sample in/pixel-sit.safetensors -o /proc/no/such")),
}

IGNORED_KEYS: dict[str, str] = {
    r"seconds|.*_seconds(_.*)?|seconds_.*|images_per_sec|steps_per_sec|ms|.*_ms|ms_.*": "measured time",
    r"versions?|medcli_version": "versions",
    r".*peak.*|.*memory.*_mib|host|hostname|created|started|finished": "of the machine and the moment",
}
"""Patterns of keys whose values may differ anywhere, each with the reason."""

EXISTENCE_ONLY: dict[str, str] = {
    "*.html": "the page's look may change",
    "*.svg": "charts",
    "a/*.png": "charts of analyze",
    "t/*.png": "charts of tune",
    "d/*.png": "charts of demo",
    "*.lock": "locks",
}
"""Patterns of files that must exist on both sides but may hold other bytes, each with the reason."""

ALLOWED: dict[str, str] = {
    r"command \d JSON\.(costs|gmacs_dense) is new": "convert names the cost of each count beside full attention",
    r".*manifest\.json\.run\.gmacs is new": "a manifest holds the cost of a pass, for merge",
    r".*manifest\.json\.sessions\[\d\]\.start is new": "sessions that overlap count once",
    r"command \d writes \d lines on stderr, not 1: warning: the .* mediators .* never trained.*": "a new warning",
    r"command 1 writes 2 lines on stderr, not 1: warning: no image ever reached .* mediators: .*": "a new warning",
    r"command \d writes \d lines on stderr, not \d: .*hint: medcli report full": "fid hints at the page of a folder",
    r"(full|b)/scores\.json is written, too": "scores are kept beside the samples",
    r".*(JSON|report\.json)\.loss: .*": "the mean of the last line of metrics.jsonl, not the loss of the last step",
    r"command 3 JSON\.images\[0\]\.gmacs: 0\.00152985\d* -> 0\.00152985\d*": "another order of a sum",
    r"command 3 JSON\.images\[0\]\.saving_percent: 1\.77514792\d* -> 1\.77514792\d*": "another order of a sum",
    r"command \d writes \d lines on stderr, not \d: \d+/\d+ \w+, .* left, .*": "progress, which a busy machine shows",
    r".*\.class_names is new": "class names of a pipeline are kept",
    r".*\.(source|fingerprint)(\..*)? is new": "converted headers and manifests name their source by a fingerprint",
    r".*\bsha256: .*": "hashes of files whose header names its source; their tensors are compared one by one",
    r".*\.medcli\.(sampling\.(path|prediction)|training\.args) is new": "settings of a training file are defaults",
    r".*JSON\.sampling is new": "inspect shows the sampling defaults of a checkpoint",
    r"command 1 JSON\.(kind is new|rho is gone|steps is gone)": "bench times loops with plans, without thresholds",
    r".*manifest\.json\.run\.tf32 is new": "a manifest tells whether products were rounded to TF32",
    r".*manifest\.json\.run\.given is new": "a manifest holds the flags that were given, for --config",
    r".*JSON\.given is new|.*analysis\.json\.given is new": "the same in an analysis",
    r"out/(model_index|scheduler/scheduler_config)\.json is written, too": "a diffusers export is a whole pipeline",
    r"command 2 writes 1 lines on stderr, not 0: diffusers embeds time .*": "and says how diffusers differs",
    r"command 1 JSON\.(num_reference|rows\[\d\]\.(error|nfe)) is new": "demo compares few calls with the papers' 250",
    r"command 1 writes 12 lines on stderr, not 11: dense, 250 steps: .*": "the same, a run more",
    r".*\.unreadable_images is new": "unreadable images are left out and counted",
    r".*config\.json\.command: .*": "the printed command lists its flags in the order of their declaration",
    r".*\.fid_of is new": "a kept FID names its reference and protocol",
    r"command 1 JSON\.agreement is gone": "the comparison with the papers' loop is a script",
    r".*\.standard_error(s|_methods)\..*": "error bars were corrected",
    r".*\.difference_from_best is new": "comparisons give the error of each difference",
    r".*\.teacher: .* -> \"f1:.*": "the teacher is known by its fingerprint",
    r".*metadata\.medcli\.sampling\.cfg_scale is new": "a conversion keeps the model's own guidance",
    r".*config\.json\.request\..* is (new|gone)": "a run stores its network settings as one group",
    r".*manifest\.json\.settings\.autoencoder_id is new": "a folder keeps its autoencoder by content",
    r"command 3 writes 2 lines on stderr, not 1: warning: samples and reference are the same images.*": "a new warning",
    r".*medcli\.config\.positions_side is new": "a network at another resolution keeps the side of its positions",
    r"out\.safetensors\.tensors\.pos_embed: .*": "positions are interpolated from those of the training resolution",
    r"run/(control/)?config\.json\.training\.lr_(warmup|end|decay).*": "learning rates have a warm-up and a cosine",
    r"run/(control/)?state-\d+\.safetensors\.tensors\.ema: .*": "the average forgets the initial weights",
    r"run/(control/)?state-\d+\.safetensors\.metadata\.medcli_training\.checksum: .*": "the same average",
    r"run/(control/)?checkpoint\.safetensors\.tensors\..*: .*": "the same average, which is what a run writes",
    r".*(JSON|report\.json)\.evaluation\.(after|control)\..*: .*": "the loss of that average",
    r"out/latents\.json\.source_fingerprint: .*": "fingerprints of images include the ends of files",
    r"out/latents-\d+\.safetensors\.metadata\.medcli\.identity: .*": "the same fingerprint",
    r"run/.*\.data\.fingerprint: .*": "fingerprints of latents include rows",
    r".*\.(observations\..*\.text|suggestion\.reason): .*": "an analysis states its findings in plain words",
}
"""Patterns of differences that are intended, each with the reason."""
