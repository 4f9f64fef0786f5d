"""Calibrates the parameters of the exit policies without labels: the reference is the model's own output at full depth.

    python -m models.train.calibrate CHECKPOINT [--crops N] [--steps N] [--threads N]

Writes calibration.pt beside the checkpoint; `export` puts it into the pack.

threshold    DAISY's τ: half of the layers, on average over speech, clean and in noise
calibrated   τ per layer for a target agreement with full depth, each calibrated on the chunks that did not exit earlier
change, ctc  δ, and τ of the CTC branches' entropy: the same mean depth as with τ
gain         a predictor for the front end and every layer of KL(p_L ‖ p_j) for this and all deeper layers, and λ for a stated mean loss

The predictors are trained on the training speech; the parameters are calibrated on held-out voices.
"""

import argparse
from pathlib import Path

import torch

from .mixing import QUIET, Crops
from .model import Forecast, digest, load
from .train import CHUNKS, FRAMES

TARGETS = (0.90, 0.95, 0.98)
LOSS = 0.05  # nats: mean KL from full depth at the default λ
BATCH, RATE = 384, 4e-3
DEPTH = 1 / 2  # of the layers: mean depth of thresholds without a target
LEAST = 50  # minimum number of chunks below a threshold


@torch.no_grad()
def measure(model, sounds, chunk):
    """Evidence of h⁰ and of every layer, [L + 1, chunks]: entropy (and that of the CTC branches), change, KL to full depth, agreement, share of frames classified as silence; and the states [L + 1, chunks, chunk, D]."""
    found = {"entropy": [], "ctc": [], "change": [], "kl": [], "agreement": [], "quiet": [], "states": []}
    for audio in sounds:
        states = model(torch.from_numpy(audio)[None], chunk)
        log_p = model.logits(states).log_softmax(-1)[:, 0]
        p = log_p.exp()
        mean = lambda x: x.reshape(len(log_p), -1, chunk).mean(-1)
        found["entropy"].append(mean(-(p * log_p).sum(-1)))
        phones = model.phone_logits(states).log_softmax(-1)[:, 0]
        found["ctc"].append(mean(-(phones.exp() * phones).sum(-1)))
        change = (p[1:] * (log_p[1:] - log_p[:-1])).sum(-1)
        found["change"].append(mean(torch.cat([torch.full_like(change[:1], torch.inf), change])))
        found["kl"].append(mean((p[-1] * (log_p[-1] - log_p)).sum(-1)))
        found["agreement"].append(mean((log_p.argmax(-1) == log_p[-1].argmax(-1)).float()))
        found["quiet"].append(mean((log_p.argmax(-1) == QUIET).float()))
        found["states"].append(torch.stack(states)[:, 0].unflatten(1, (-1, chunk)).half())
    return {name: torch.cat(values, 1) for name, values in found.items()}


def first_at_most(values, thresholds):
    """The first layer (from 1) whose value [L + 1, N] is at most its threshold, otherwise the last layer."""
    hit = values[1:-1] <= torch.as_tensor(thresholds).reshape(-1, 1)
    return torch.where(hit.any(0), hit.int().argmax(0) + 1, len(values) - 1)


def at(values, depth):
    """Values [L + 1, N] at one depth per column."""
    return values[depth, torch.arange(len(depth))]


def bisect(low, high, too_much, steps=40):
    """The largest value in [low, high] for which `too_much` is false."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if too_much(middle) else (middle, high)
    return low


def survivors(evidence, least_agreement):
    """Thresholds per layer: the maximum number of exits with a mean agreement of `least_agreement`, among chunks that did not exit earlier."""
    alive, thresholds = torch.ones(evidence["entropy"].shape[1], dtype=torch.bool), []
    for entropy, agreement in zip(evidence["entropy"][1:-1], evidence["agreement"][1:-1]):
        values, order = entropy[alive].sort()
        kept = agreement[alive][order].cumsum(0) / torch.arange(1, len(order) + 1)
        good = (kept >= least_agreement).nonzero()
        last = int(good[-1]) if len(good) else -1
        thresholds.append(float(values[last]) if last >= LEAST else -1.0)
        alive &= entropy > thresholds[-1]
    return thresholds


def thresholds_for(evidence, target):
    """Thresholds whose cascade agrees with full depth on `target` of the frames, chunks at full depth included."""
    reached = lambda least: float(at(evidence["agreement"], first_at_most(evidence["entropy"], survivors(evidence, least))).mean())
    least = bisect(0.0, 1.0, lambda least: reached(1 - least) < target, 12)
    return survivors(evidence, 1 - least)


def train_forecast(net, states, targets, steps):
    """Poisson deviance: the exponential of the output becomes the mean of the target."""
    with torch.no_grad():
        net.out.weight.mul_(0.1)
        net.out.bias.copy_(torch.cat([target.mean(1, keepdim=True) for target in targets], 1).mean(1).clamp(min=1e-3).log())
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-2)
    for step in range(steps):
        x, target = states[step % len(states)], targets[step % len(states)]
        chosen = torch.randint(x.shape[0], (BATCH,))
        out, expected = net(x[chosen].float()), target[:, chosen].T
        loss = (out.exp() - expected * out).mean()
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def forecasts(nets, states):
    """KL of layer j predicted at layer k, [L][N, L-k]."""
    with torch.no_grad():
        return [torch.cat([net(part.float()) for part in x.split(512)]).exp() for net, x in zip(nets, states)]


def stops(predicted, price):
    """The rule of the policy `gain`: the first layer, h⁰ included, after which no deeper one reduces KL by more than its price."""
    layers, count = len(predicted), len(predicted[0])
    depth = torch.full((count,), layers)
    for k in range(layers - 1, -1, -1):
        here, deeper = predicted[k][:, :1], torch.nn.functional.pad(predicted[k][:, 1:], (0, 1))
        worth = here - deeper > price * torch.arange(1, layers - k + 1)
        depth = torch.where(worth.any(1), depth, k)
    return depth


def collect(model, crops, count):
    """Evidence of `count` crops of the device-like mix, by chunk size."""
    share, parts = {8: 0.25, 16: 0.5, 32: 0.25}, {}
    for size in CHUNKS:
        parts[size] = measure(model, [crops.device() for _ in range(max(2, int(count * share[size])))], size)
    return parts


def predictors(model, crops, count, steps):
    """Trains a predictor for the front end and for each layer except the last, on `count` crops."""
    nets, parts = [], collect(model, crops, count)
    for k in range(model.shape.layers):
        states, targets = [part["states"][k] for part in parts.values()], [part["kl"][k:-1] for part in parts.values()]
        nets.append(train_forecast(Forecast(model.shape, k), states, targets, steps))
        print(f"calibrate: gain predictor of layer {k}", flush=True)
    return [net.state_dict() for net in nets]


def thresholds(model, gain, crops, count, chunk=16):
    """All parameters, from `count` crops of speech, and for λ the same number of the device-like mix."""
    layers = model.shape.layers
    speech = measure(model, [crops.crop()[0] for _ in range(count)], chunk)
    deep = lambda values: lambda bound: float(first_at_most(values, bound).float().mean()) < layers * DEPTH
    threshold = bisect(0.0, 6.0, deep(speech["entropy"]))
    change, ctc = bisect(0.0, 2.0, deep(speech["change"])), bisect(0.0, 4.0, deep(speech["ctc"]))
    depth = int(first_at_most(speech["entropy"], threshold).float().mean())
    # Targets refer to speech: silence agrees trivially and would meet them by itself.
    spoken = {name: speech[name][:, speech["quiet"][-1] < 0.5] for name in ("entropy", "agreement")}
    print(f"calibrate: threshold {threshold:.3f} nats, change {change:.4f} nats, CTC {ctc:.3f} nats, on {speech['kl'].shape[1]} chunks", flush=True)
    evidence = measure(model, [crops.device() for _ in range(count)], chunk)
    nets = [Forecast(model.shape, k) for k in range(layers)]
    for net, state in zip(nets, gain):
        net.load_state_dict(state)
    predicted = forecasts(nets, evidence["states"])
    loss = lambda price: float(at(evidence["kl"], stops(predicted, price)).mean())
    price = bisect(0.0, 1.0, lambda price: loss(price) > LOSS)
    print(f"calibrate: gain stops at {float(stops(predicted, price).float().mean()):.2f} of {layers} layers for {loss(price):.3f} nats", flush=True)
    return {
        "threshold": threshold, "change": change, "ctc": ctc, "lambda": price, "fixed": (layers + 1) // 2,
        "range": [depth, min(layers, depth + 1)],
        "calibrated": {target: thresholds_for(spoken, target) for target in TARGETS},
        "data": f"{count} crops of {FRAMES / 50:.1f} s of speech.calibrate in noise (models/train/mixing.py)",
        "gain": gain,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--crops", type=int, default=500)
    parser.add_argument("--steps", type=int, default=2000, help="training steps of each gain predictor (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="reuse the gain predictors of an earlier call, and only calibrate the parameters")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, _ = load(arguments.checkpoint)
    model.eval()
    path = arguments.checkpoint.parent / "calibration.pt"
    if arguments.keep:
        gain = torch.load(path, weights_only=True)["gain"]
    else:
        gain = predictors(model, Crops(FRAMES, seed=1_000_000), arguments.crops, arguments.steps)
    numbers = thresholds(model, gain, Crops(FRAMES, "speech.calibrate", seed=1), max(2, arguments.crops // 2))
    torch.save({**numbers, "of": digest(model)}, path)
    print(f"calibrate: {path}", flush=True)


if __name__ == "__main__":
    main()
