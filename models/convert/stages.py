"""The stages of an encoder as ONNX graphs. `w` is the checkpoint's weights by name, `s` its Shape (checkpoint.py)."""

import numpy as np

from .graph import Graph


def prefixed(w, prefix):
    """`prefix` + name -> array, with an error that names the missing weight."""

    def get(name):
        try:
            return w[prefix + name]
        except KeyError:
            from .checkpoint import ConvertError

            raise ConvertError(f"the checkpoint has no weight {prefix + name}; check that it is the model that its config.json describes") from None

    return get


def frontend(path, s, w, folded=None, f16=False):
    """audio [1, samples] -> x [1, T, D]: convolutions and the feature projection. `folded` (norm.py): conv0's weight and bias
    with fixed statistics, instead of the GroupNorm over the window."""
    g, get = Graph(f16), prefixed(w, "feature_extractor.conv_layers.")
    x = g.op("Unsqueeze", "audio", [1])
    for i, (_, _, stride) in enumerate(s.conv):
        weight, bias = get(f"{i}.conv.weight"), w.get(f"feature_extractor.conv_layers.{i}.conv.bias")
        if i == 0 and folded is not None:
            weight, bias = folded
        x = g.conv(x, weight, bias, strides=[stride])
        norm = lambda: (get(f"{i}.layer_norm.weight"), get(f"{i}.layer_norm.bias"))
        if not s.group_norm:
            x = g.transpose(g.layer_norm(g.transpose(x), *norm(), 1e-5))
        elif i == 0 and folded is None:
            x = norm_over_time(g, x, *norm())
        x = g.op(s.conv_activation, x)
    x, get = g.transpose(x), prefixed(w, "feature_projection.")
    if s.projection_norm:
        x = g.layer_norm(x, get("layer_norm.weight"), get("layer_norm.bias"), s.eps)
    x = g.linear(x, get("projection.weight"), get("projection.bias"))
    g.save(path, {"audio": [1, "samples"]}, {"x": (x, [1, "T", s.dim])})


def norm_over_time(g, x, weight, bias):
    """GroupNorm with one group per channel, of x [1, C, T], from primitive operators supported by every runtime."""
    x = g.op("Sub", x, g.op("ReduceMean", x, [2], keepdims=1))
    variance = g.op("ReduceMean", g.op("Mul", x, x), [2], keepdims=1)
    scale = g.op("Div", weight[None, :, None], g.op("Sqrt", g.op("Add", variance, np.float32(1e-5))))
    return g.op("Add", g.op("Mul", x, scale), bias[None, :, None])


def position(path, s, w, f16=False):
    """x [1, T, D] -> y [1, T, D]: adds the positional convolution over the window; models without stable norm normalise after it."""
    g, get = Graph(f16), prefixed(w, "encoder.")
    x = g.transpose("x")
    if s.position_batch_norm:
        bn = prefixed(w, "encoder.pos_conv_embed.batch_norm.")
        scale = bn("weight") / np.sqrt(bn("running_var") + 1e-5)
        shift = bn("bias") - bn("running_mean") * scale
        x = g.op("Add", g.op("Mul", x, scale[None, :, None]), shift[None, :, None])
    half = s.position_kernel // 2
    # An even kernel gives one frame too many, which the published models remove at the end: one zero less there.
    pads = [half, half - 1 + s.position_kernel % 2]
    x = g.conv(x, position_weight(w), get("pos_conv_embed.conv.bias"), group=s.position_groups, pads=pads)
    y = g.op("Add", "x", g.transpose(g.op(s.conv_activation, x)))
    if not s.stable_norm:
        y = g.layer_norm(y, get("layer_norm.weight"), get("layer_norm.bias"), s.eps)
    g.save(path, {"x": [1, "T", s.dim]}, {"y": (y, [1, "T", s.dim])})


def position_weight(w):
    """The positional convolution's weight from its weight norm (over the taps): v · g / ‖v‖."""
    conv = "encoder.pos_conv_embed.conv."
    if conv + "weight" in w:
        return w[conv + "weight"]
    old = conv + "weight_v" in w
    names = ("weight_g", "weight_v") if old else ("parametrizations.weight.original0", "parametrizations.weight.original1")
    gain, v = (prefixed(w, conv)(name) for name in names)
    return v * (gain / np.sqrt((v.astype(np.float64) ** 2).sum((0, 1), keepdims=True)).astype(np.float32))


def layer(path, s, w, k, before_norm=False, f16=False):
    """Layer `k` (from 1): x [1, T, D] -> y [1, T, D], and f [1, T, D], the feed-forward output before residual and norm.
    The last layer of a stable-norm encoder ends with the encoder's own norm, as the last hidden state of `transformers` does."""
    g, get = Graph(f16), prefixed(w, f"encoder.layers.{k - 1}.")
    norm = lambda x, name: g.layer_norm(x, get(f"{name}.weight"), get(f"{name}.bias"), s.eps)
    if s.stable_norm:
        x = g.op("Add", "x", attention(g, norm("x", "layer_norm"), s, w, k))
        f = feed_forward(g, norm(x, "final_layer_norm"), s, get)
        y = g.op("Add", x, f)
        if k == s.layers:
            final = prefixed(w, "encoder.layer_norm.")
            y = g.layer_norm(y, final("weight"), final("bias"), s.eps)
    else:
        x = norm(g.op("Add", "x", attention(g, "x", s, w, k)), "layer_norm")
        f = feed_forward(g, x, s, get)
        y = norm(g.op("Add", x, f), "final_layer_norm")
    hidden = [1, "T", s.dim]
    outputs = {"y": (y, hidden), "f": (f, hidden)} if before_norm else {"y": (y, hidden)}
    g.save(path, {"x": hidden}, outputs)


def feed_forward(g, x, s, get):
    get_linear = lambda name: (get(f"feed_forward.{name}.weight"), get(f"feed_forward.{name}.bias"))
    x = g.op(s.activation, g.linear(x, *get_linear("intermediate_dense")))
    return g.linear(x, *get_linear("output_dense"))


def attention(g, x, s, w, k):
    """Self-attention over the window; WavLM adds its gated position bias to the scores."""
    get = prefixed(w, f"encoder.layers.{k - 1}.attention.")
    size, scale = s.dim // s.heads, (s.dim // s.heads) ** -0.5
    weights, biases = ([get(f"{p}_proj.{kind}") for p in "qkv"] for kind in ("weight", "bias"))
    weights[0], biases[0] = weights[0] * scale, biases[0] * scale
    parts = g.split(g.linear(x, np.concatenate(weights), np.concatenate(biases)), 3)
    by_head = lambda x, perm: g.op("Transpose", g.op("Reshape", x, [1, -1, s.heads, size]), perm=perm)
    q, v = (by_head(part, [0, 2, 1, 3]) for part in (parts[0], parts[2]))
    scores = g.op("MatMul", q, by_head(parts[1], [0, 2, 3, 1]))
    if s.model_type == "wavlm":
        scores = g.op("Add", scores, position_bias(g, x, s, w, k))
    y = g.op("MatMul", g.op("Softmax", scores, axis=-1), v)
    y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), [1, -1, s.dim])
    return g.linear(y, get("out_proj.weight"), get("out_proj.bias"))


def position_bias(g, x, s, w, k):
    """WavLM (arXiv 2110.13900, section 3.2): a bias per bucket of distance, [1, H, T, T], times a gate per head and frame.
    x [1, T, D] is the attention's input. The bias table is layer 1's, shared by all layers."""
    get = prefixed(w, f"encoder.layers.{k - 1}.attention.")
    # Eight outputs per head, summed in two groups of four: the sums are folded into the weights, and all heads into one matmul.
    weight = get("gru_rel_pos_linear.weight").reshape(2, 4, -1).sum(1)
    bias = get("gru_rel_pos_linear.bias").reshape(2, 4).sum(1)
    gate = lambda i: g.op("Sigmoid", g.linear(x, np.kron(np.eye(s.heads, dtype=np.float32), weight[i : i + 1]), np.repeat(bias[i], s.heads)))
    rest = g.op("Sub", g.op("Mul", gate(1), get("gru_rel_pos_const").reshape(1, 1, s.heads)), np.float32(1))
    gates = g.op("Add", g.op("Mul", gate(0), rest), np.float32(2))  # [1, T, H]
    gates = g.op("Unsqueeze", g.transpose(gates), [3])

    table = prefixed(w, "encoder.layers.0.attention.")("rel_attn_embed.weight")
    reach = s.max_distance  # beyond it every distance is in the last bucket
    by_distance = table[bucket(np.arange(-reach, reach + 1), s.buckets, s.max_distance)].T  # [H, distances]
    frames = g.op("Gather", g.op("Shape", x), 1, axis=0)
    index = g.op("Range", 0, frames, 1)
    distance = g.op("Sub", g.op("Unsqueeze", index, [0]), g.op("Unsqueeze", index, [1]))
    distance = g.op("Min", g.op("Max", distance, -reach), reach)
    # One gather from the flat table: gathering by head and transposing makes a layer 50 % slower in tract.
    first = (np.arange(s.heads) * by_distance.shape[1] + reach).reshape(1, -1, 1, 1)
    bias = g.op("Gather", by_distance.reshape(-1), g.op("Add", g.op("Unsqueeze", distance, [0, 1]), first), axis=0)
    return g.op("Mul", gates, bias)


def bucket(distance, buckets, max_distance):
    """Bucket of each distance in frames (key − query): half of them per direction, exact for short distances, logarithmic for long ones.
    f32 as in `transformers`, so that boundaries are at the same frame."""
    half = buckets // 2
    exact = half // 2
    size = np.abs(distance)
    large = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact)) / np.float32(np.log(max_distance / exact))
    large = np.minimum((exact + large * np.float32(half - exact)).astype(np.int64), half - 1)
    return np.where(distance > 0, half, 0) + np.where(size < exact, size, large)


def head(path, dim, weight, bias, f16=False):
    """f [1, T, D] -> logits [1, T, U]: DAISY's exit branch, one linear layer."""
    g = Graph(f16)
    logits = g.linear("f", weight, bias)
    g.save(path, {"f": [1, "T", dim]}, {"logits": (logits, [1, "T", len(weight)])})
