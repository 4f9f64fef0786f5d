"""Fixed statistics instead of norms over the recording, folded into the first convolution.

Two norms of the published models look at the whole recording, which a stream does not have: `do_normalize` (the samples get
zero mean and unit variance) and the base models' GroupNorm (so does each channel of conv0). Over a window they are another
norm, and no front-end frame can be kept from window to window. With statistics measured once on the user's recordings both
are part of conv0's weights, and the front end is exact per frame. measure_norms.py measures what each way does.
"""

import numpy as np

from .audio import SILENCE_RMS, recordings
from .checkpoint import ConvertError


def statistics(checkpoint, samples):
    """(mean, deviation) with which the published model would normalise this recording: one value per channel of conv0 if it has a
    GroupNorm, else one for the samples."""
    s, x = checkpoint.shape, samples.astype(np.float64)
    level = np.sqrt(x.var() + 1e-7) if checkpoint.normalize else 1.0
    if not s.group_norm:
        return np.array([x.mean()]), np.array([level])
    # Mean and variance of each channel follow from those of the samples under the kernel: a 10×10 matrix.
    _, kernel, stride = s.conv[0]
    patches = np.lib.stride_tricks.sliding_window_view(x, kernel)[::stride]
    covariance = np.atleast_2d(np.cov(patches, rowvar=False, bias=True))
    weight = checkpoint.weights["feature_extractor.conv_layers.0.conv.weight"][:, 0].astype(np.float64)
    variance = np.einsum("ci,ij,cj->c", weight, covariance, weight)
    bias = checkpoint.weights.get("feature_extractor.conv_layers.0.conv.bias", np.zeros(len(weight)))
    # GroupNorm's epsilon is added to the variance of normalised audio, which corresponds to level² times epsilon for raw audio.
    return weight @ patches.mean(0) + bias, np.sqrt(variance + 1e-5 * level**2)


def measured(checkpoint, folder, minutes=None):
    """Statistics over the recordings of a folder: the mean of the means, the geometric mean of the deviations, so that loud
    and quiet recordings have equal weight."""
    clips = (samples for _, samples in recordings(folder, checkpoint.sample_rate, minutes))
    found = [statistics(checkpoint, samples) for samples in clips if samples.std() > SILENCE_RMS]
    if not found:
        raise ConvertError(f"{folder} contains only silence; --norm folded needs recordings at the level of your microphone")
    return pool(found)


def pool(found):
    """Combines the (mean, deviation) of several recordings."""
    means, deviations = (np.array(one) for one in zip(*found))
    return means.mean(0), np.exp(np.log(deviations).mean(0))


def folded(checkpoint, mean, deviation):
    """conv0's (weight, bias) with the statistics folded in."""
    weights, first = checkpoint.weights, "feature_extractor.conv_layers.0."
    weight, bias = weights[first + "conv.weight"].astype(np.float64), weights.get(first + "conv.bias")
    bias = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    if checkpoint.shape.group_norm:
        scale = weights[first + "layer_norm.weight"] / deviation
        bias = (bias - mean) * scale + weights[first + "layer_norm.bias"]
        weight = weight * scale[:, None, None]
    else:
        weight = weight / deviation
        bias = bias - weight.sum((1, 2)) * mean
    return weight.astype(np.float32), bias.astype(np.float32)
