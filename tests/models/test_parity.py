"""Every variant, head and configuration beside live `transformers` modules with random weights everywhere.

Outputs within 2e-5 and gradients with respect to every parameter within 1e-4 relative, float32, padded
batches; then HF -> ours -> HF bit for bit with no missing and no unexpected key.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peer_cases import CASES

import bertvariants_jax as bv
from bertvariants_jax import names
from bertvariants_jax.models import VARIANTS

pytestmark = pytest.mark.peers

PAIRS = [pytest.param(case, cls, id=f"{case.variant}-{i}-{cls}")
         for i, case in enumerate(CASES) for cls in VARIANTS[case.variant].classes]


@pytest.fixture(scope="module", autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def peer_class(case, cls):
    """HF's class, under the stem that the case's config has ("XLMRoberta" for "Roberta")."""
    import transformers

    return getattr(transformers, case.config.removesuffix("Config") + cls.removeprefix(VARIANTS[case.variant].stem))


def peer_of(case, cls):
    """A live peer with every parameter drawn at random: biases, LayerNorms and tables too."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if cls in case.skip:
        pytest.skip(case.skip[cls])
    options = {k: v for k, v in case.options.items() if k != "num_labels" or "QuestionAnswering" not in cls}
    config = getattr(transformers, case.config)(**options)
    config._attn_implementation = "eager"
    torch.manual_seed(case.seed)
    peer = peer_class(case, cls)(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            spread = 0.3 if parameter.ndim < 2 else 0.3 / max(1.0, parameter.shape[-1] / 24) ** 0.5
            parameter.copy_(torch.randn_like(parameter) * spread)
    return peer


def batch_of(case, rows, length, seed):
    rng = np.random.default_rng(seed)
    batch = {"input_ids": rng.integers(2, case.options["vocab_size"], (rows, length)),
             "attention_mask": np.ones((rows, length), int),
             "token_type_ids": rng.integers(0, case.segments, (rows, length))}
    for row in range(rows):
        padding = rng.integers(0, length - 2) if row else 0
        where = slice(0, padding) if case.left else slice(length - padding, length)
        batch["attention_mask"][row, where] = 0
    batch |= {name: rng.integers(0, values, (rows, length)) for name, values in case.further.items()}
    return {k: v.astype(np.int32) for k, v in batch.items() if k in (*case.inputs, *case.further)}


def real_of(batch):
    """Which tokens are no padding, bool [B, L]."""
    return np.asarray(batch.get("attention_mask", np.ones_like(batch["input_ids"]))) > 0


def heads_of(cls):
    return next((v.classes[cls] for v in VARIANTS.values() if cls in v.classes), ())


def outputs_of(peer, cls, batch):
    import torch

    inputs = {k: torch.tensor(v, dtype=torch.long) for k, v in batch.items()}
    if "MultipleChoice" in cls:
        # HF's ERNIE hands its task types on unfolded, so they are given as [B * choices, L]
        inputs = {k: v if k == "task_type_ids" else v.reshape(len(v) // 2, 2, -1) for k, v in inputs.items()}
    if "beam" in heads_of(cls):
        inputs["p_mask"] = torch.tensor(~real_of(batch)).long()    # ours never answers with padding
    out = peer(**inputs, output_hidden_states=True, output_attentions=True)
    heads = {"mlm": "prediction_logits" if cls.endswith("PreTraining") and "prediction_logits" in out else "logits",
             "pair": next((k for k in ("seq_relationship_logits", "sop_logits") if k in out), "logits"),
             "span": None}
    return out, heads


def ours(checkpoint, head, params, batch):
    if head == "choice":
        batch = {k: v.reshape(len(v) // 2, 2, -1) for k, v in batch.items()}
    scores = checkpoint.network.scores(params, head, batch)
    if head == "beam":
        ends = jnp.swapaxes(scores.end_top_probs, 1, 2).reshape(len(scores.cls_logits), -1)
        return jnp.concatenate([scores.start_top_probs, ends, scores.cls_logits[:, None]], axis=1)
    return scores


def peer_scores(out, head, heads):
    import torch

    if head == "beam":
        return torch.cat([out.start_top_log_probs, out.end_top_log_probs, out.cls_logits[:, None]], 1)
    if head == "span":
        return torch.stack([out.start_logits, out.end_logits], -1)
    return out[heads.get(head, "logits")]


@pytest.mark.parametrize("case,cls", PAIRS)
def test_outputs_and_gradients(case, cls, tmp_path):
    torch = pytest.importorskip("torch")
    peer = peer_of(case, cls)
    peer.save_pretrained(tmp_path)
    checkpoint = bv.load(tmp_path)
    network, heads = checkpoint.network, VARIANTS[case.variant].classes[cls]
    assert checkpoint.variant == case.variant and set(heads) <= set(checkpoint.heads)
    for rows, length, seed in ((4, 11, 0), (2, 17, 1)) if not heads else ((4, 11, 0),):
        batch = batch_of(case, rows, length, seed)
        real = real_of(batch)
        draw = np.random.default_rng(seed)
        out, keys = outputs_of(peer, cls, batch)

        def close(mine, theirs, keep, what, tolerance=case.tolerance):
            assert mine.shape == tuple(theirs.shape), what
            np.testing.assert_allclose(np.asarray(mine)[keep], theirs.detach().numpy()[keep], atol=tolerance,
                                       err_msg=what)

        theirs = {head: peer_scores(out, head, keys) for head in heads} or {"": out[0]}
        keeps = {head: real if t.shape[:2] == real.shape else np.ones(t.shape[:1], bool) for head, t in theirs.items()}
        weights = {head: draw.normal(size=t.shape).astype(np.float32)
                   * keeps[head].reshape(keeps[head].shape + (1,) * (t.ndim - keeps[head].ndim))
                   for head, t in theirs.items()}

        @jax.jit
        @functools.partial(jax.value_and_grad, has_aux=True)
        def everything(params):
            encoded, hidden, attentions = network.trace(params, batch)
            scores = {head: ours(checkpoint, head, params, batch) for head in heads} or {"": encoded.last_hidden_state}
            return sum(jnp.sum(scores[h] * weights[h]) for h in scores), (scores, encoded, hidden, attentions)

        (_, (mine, encoded, hidden, attentions)), gradients = everything(checkpoint.params)
        for head in mine:
            close(mine[head], theirs[head], keeps[head], head)
        assert len(hidden) == len(out.hidden_states) and len(attentions) == len(out.attentions)
        for layer, pair in enumerate(zip(hidden, out.hidden_states, strict=True)):
            close(*pair, real, f"hidden state {layer}")
        for layer, (a, b) in enumerate(zip(attentions, out.attentions, strict=True)):
            close(jnp.swapaxes(a, 1, 2), b.transpose(1, 2), real, f"attention {layer}")
        if not heads and out.get("pooler_output") is not None:
            close(encoded.pooler_output, out.pooler_output, slice(None), "pooler")
        peer.zero_grad()
        sum((theirs[head] * torch.tensor(weights[head])).sum() for head in theirs).backward()
        compare_gradients(checkpoint, gradients, peer, bool(heads))


def compare_gradients(checkpoint, gradients, peer, prefixed):
    """Each tensor's difference beside its own norm, with a floor at 5e-2 of the root mean square of all norms:
    where attention is saturated, the gradients of queries and keys vanish and only float32's rounding is left,
    which is another one on each processor."""
    theirs = {name: p.grad.numpy() for name, p in peer.named_parameters(remove_duplicate=False) if p.grad is not None}
    once = [np.linalg.norm(p.grad) for p in peer.parameters() if p.grad is not None]          # tied ones once
    floor = 5e-2 * np.sqrt(np.mean(np.square(once)))
    compared = 0
    for part, rows in checkpoint.network.rows(prefixed).items():
        mine = names.write(rows, names.flatten(jax.device_get(gradients[part])))
        for name, gradient in mine.items():
            expected = theirs.get(name, np.zeros_like(gradient))
            error = np.linalg.norm(gradient - expected) / max(np.linalg.norm(expected), floor)
            assert error <= 1e-4, f"{name}: gradients differ by {error:.1e}"
            compared += name in theirs
    assert compared >= len(once)


@pytest.mark.parametrize("case,cls", PAIRS)
def test_round_trip_bit_for_bit(case, cls, tmp_path):
    from safetensors.numpy import load_file

    peer = peer_of(case, cls)
    peer.save_pretrained(tmp_path / "theirs")
    bv.save(bv.load(tmp_path / "theirs"), tmp_path / "ours")
    mine, theirs = (load_file(tmp_path / who / "model.safetensors") for who in ("ours", "theirs"))
    assert set(mine) == set(theirs)
    for name in theirs:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    again, report = peer_class(case, cls).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    for (name, before), (_, after) in zip(peer.state_dict().items(), again.state_dict().items(), strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy(), err_msg=name)


OWN = [name for i, name in enumerate(VARIANTS) if VARIANTS[name].encoder not in
       [variant.encoder for variant in list(VARIANTS.values())[:i]]]         # networks that no earlier variant has


@pytest.mark.parametrize("variant", OWN)
def test_three_cases_of_each_variant(variant):
    assert len([case for case in CASES if case.variant == variant]) >= 3
