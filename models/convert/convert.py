"""Converts a checkpoint folder to a pack, with heads if there are recordings to train them on."""

import shutil
from pathlib import Path

from . import audio, checkpoint, heads, norms, units
from .checkpoint import ConvertError
from .pack import Writer
from .reference import WindowedPack


def convert(source, out, options, args):
    """Converts the checkpoint folder `source` into the pack folder `out`; `args` as in __main__.py."""
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ConvertError(f"{out} is not empty: remove it, or choose another folder")
    found = checkpoint.load(source, None if args.normalize is None else args.normalize == "yes")
    # What may be wrong is found before minutes of work, and a pack that is not complete has another name.
    branches = carried_over(found, args)
    if args.heads_audio:
        layer = args.units_layer or found.shape.layers
        if not 1 <= layer <= found.shape.layers:
            raise ConvertError(f"--units-layer must be between 1 and {found.shape.layers}, got {layer}")
        next(audio.recordings(args.heads_audio, found.sample_rate))
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    writer = Writer(part, found, options)
    writer.fold(fold(found, args))
    writer.encoder()
    writer.manifest()
    if args.heads_audio:
        add_heads(writer, branches, args)
    elif branches:
        writer.heads(branches)
        writer.head_note = "exit branches carried over"
        writer.manifest(len(branches[0].bias))
        print("imported the branches without calibrated thresholds; pass --heads-audio to calibrate them")
    else:
        print("no --heads-audio: the pack has no heads and supports only the policies fixed, periodic and never")
    part.rename(out)
    return out


def fold(found, args):
    """conv0 with fixed statistics, or None."""
    if args.norm == "window" or not (found.shape.group_norm or found.normalize):
        return None
    folder = args.norm_audio or args.heads_audio
    if not folder:
        raise ConvertError("--norm folded measures statistics on recordings: pass --norm-audio (or --heads-audio)")
    return norms.folded(found, *norms.measured(found, folder, args.minutes))


def carried_over(found, args):
    """Exit branches in the checkpoint or in --branches-file, one per layer, or None."""
    if not args.branches:
        return None
    weights = branches_in(Path(args.branches_file)) if args.branches_file else found.weights
    out = []
    for k in range(1, found.shape.layers + 1):
        try:
            name = args.branches.format(k=k, k0=k - 1)
        except (LookupError, ValueError):
            raise ConvertError(f"--branches {args.branches!r}: in the name, {{k}} or {{k0}} stands for the layer") from None
        try:
            out.append(heads.Linear(weights[f"{name}.weight"], weights[f"{name}.bias"]))
        except KeyError as missing:
            raise ConvertError(f"no weight {missing} for the branch of layer {k}; available: {', '.join(sorted(weights)[:12])} …") from None
        if out[-1].weight.ndim != 2 or out[-1].weight.shape[1] != found.shape.dim:
            raise ConvertError(f"{name}.weight must be [units, {found.shape.dim}], got {out[-1].weight.shape}: a branch is linear")
    return out


def branches_in(path):
    """The weights in a file of branches."""
    if not path.is_file():
        raise ConvertError(f"--branches-file {path}: file not found")
    return checkpoint.read_tensors(path)


def add_heads(writer, branches, args):
    """Trains the heads (or takes `branches`), calibrates them, writes both into the pack."""
    shape, layer = writer.checkpoint.shape, args.units_layer or writer.checkpoint.shape.layers
    print(f"streaming up to {args.minutes:g} minutes of {args.heads_audio} through the pack")
    own = units.predictor(writer.checkpoint.weights)
    states = heads.collect(WindowedPack(writer.out), args.heads_audio, args.minutes, shape.layers if own else layer)
    training, calibration, check = heads.split(states, args.seed)
    if branches:
        made, note = branches, "exit branches carried over"
    else:
        made, note = trained(states, training, check, own, layer, writer.options.before_norm, args)
    writer.heads(made)
    writer.head_note = note

    held, checked = (heads.evidence(made, states, part) for part in (calibration, check))
    targets = []
    for agreement in heads.AGREEMENTS:
        thresholds = heads.calibrate(*held, agreement)
        kept, depth = heads.cascade(*checked, thresholds)
        print(f"target agreement {agreement:.2f}: {kept:.3f} on the test set, mean exit layer {depth:.1f} of {shape.layers}")
        targets.append(dict(agreement=agreement, thresholds=thresholds))
    seconds = held[2].sum() * shape.hop / writer.checkpoint.sample_rate
    data = f"{seconds:.0f} s of the user's recordings, kept out of the heads' training"
    writer.exit = dict(policy="calibrated", calibrated=dict(data=data, targets=targets))
    writer.manifest(len(made[0].logits(states.features[0][:1])[0]))


def trained(states, training, check, own, layer, before_norm, args):
    """(heads, a note for the provenance)"""
    if own:
        unit, note = own, f"exit heads trained on the predictions of the checkpoint's own {own.units} units"
    else:
        unit = units.KMeans(states.outputs[training].astype("f4"), args.units, args.seed)
        note = f"exit heads trained on {args.units} k-means clusters of layer {layer}'s output"
    labels, made = unit.labels(states.outputs.astype("f4")), []
    for k, features in enumerate(states.features, 1):
        last = k == len(states.features)
        # The predictor reads the last layer's output, so it is the last head if that is the feature.
        head = own if own and last and not before_norm else heads.train(features[training], labels[training], unit.units, args.seed, args.epochs)
        found, most = head.logits(features[check]).argmax(1), labels[training]
        guess = (labels[check] == max(set(most.tolist()), key=most.tolist().count)).mean()
        print(f"head {k}: {(found == labels[check]).mean():.3f} of the units correct on held-out recordings (always the most frequent: {guess:.3f})", flush=True)
        made.append(head)
    return made, note
