"""Small checkpoints of every architecture with random weights, for the tests and the golden packs (needs PyTorch and transformers)."""

SMALL = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, conv_dim=[16] * 7,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
)
LARGE_STYLE = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)

# name -> (kind, configuration, do_normalize as published models of this kind have it)
VARIANTS = {
    "hubert-base": ("Hubert", {}, True),
    "hubert-large": ("Hubert", LARGE_STYLE, True),
    "hubert-batch-norm": ("Hubert", dict(conv_pos_batch_norm=True), True),
    "distilhubert": ("Hubert", dict(num_hidden_layers=2, feat_proj_layer_norm=False), False),
    "wav2vec2-base": ("Wav2Vec2", {}, True),
    "wav2vec2-large": ("Wav2Vec2", LARGE_STYLE, True),
    "wavlm-base": ("WavLM", dict(num_buckets=64, max_bucket_distance=60), False),
    "wavlm-large": ("WavLM", LARGE_STYLE | dict(num_buckets=64, max_bucket_distance=60), True),
}


def build(name, seed=1, **more):
    """The `transformers` model of a variant. Every parameter is random, because 0 or 1 could hide a mistake."""
    import torch
    import transformers

    kind, config, _ = VARIANTS[name]
    config = getattr(transformers, f"{kind}Config")(**(SMALL | config | more))
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            noise = torch.randn_like(value)
            if "norm" in key and key.endswith("weight") or "rel_pos_const" in key:
                value.copy_(1 + 0.2 * noise)
            elif key.endswith("original0"):
                value.mul_(1 + 0.2 * noise)
            elif key.endswith("bias"):
                value.copy_(0.2 * noise)
            elif "rel_attn_embed" in key:
                value.copy_(noise)
            elif value.dim() == 2:
                value.copy_(noise * value.shape[1] ** -0.5)
        for key, value in model.named_buffers():
            if key.endswith("running_mean"):
                value.normal_(0, 0.2)
            elif key.endswith("running_var"):
                value.uniform_(0.5, 2)
    return model


def save(name, folder, seed=1, safetensors=True, **more):
    """Writes a variant's checkpoint folder and returns the model."""
    import torch
    import transformers

    model = build(name, seed, **more)
    model.save_pretrained(folder)
    if not safetensors:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    transformers.Wav2Vec2FeatureExtractor(do_normalize=VARIANTS[name][2]).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\ndatasets:\n- none (random weights)\n---\n# Random weights\n")
    return model


def hidden_states(model, audio):
    """All hidden states [L + 1, T, D] of `transformers` for the unmodified `audio` [S]."""
    import torch

    with torch.no_grad():
        states = model(torch.tensor(audio)[None], output_hidden_states=True)
    # The last state is after the encoder's last norm, independent of the `hidden_states` of the installed version.
    return torch.stack([*states.hidden_states[:-1], states.last_hidden_state])[:, 0].numpy()
