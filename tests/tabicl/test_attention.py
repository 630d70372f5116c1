"""The attention that is shown is the attention that is used: weights times values give what the model computes."""

import pytest
import torch
from tabicl._model.tabicl import TabICL

from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.differentiable import DifferentiableTabICL, Member, attention_weights

SSMAX = ("none", "ssmax", "ssmax-mlp", "ssmax-mlp-elementwise", "qassmax-mlp", "qassmax-mlp-elementwise")


def problem(classes=3, per_class=2, columns=4, queries=7):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(classes).repeat(per_class)
    context = torch.randn(1, len(y), columns, generator=generator) + 2 * y[None, :, None]
    member = Member(True, torch.randperm(columns, generator=generator), (torch.arange(classes) + 1) % classes)
    return context, y, 3 * torch.randn(1, queries, columns, generator=generator), member


def random_checkpoint(path, ssmax):
    """A checkpoint in the layout of the published v2, tiny and with random weights."""
    config = {
        "embed_dim": 16, "col_num_blocks": 1, "col_nhead": 2, "col_num_inds": 4, "row_num_blocks": 1, "row_nhead": 2,
        "row_num_cls": 2, "icl_num_blocks": 3, "icl_nhead": 4, "icl_ssmax": ssmax, "zero_init": False,
    }  # fmt: skip
    torch.manual_seed(0)
    model = TabICL(**config)
    for name, weight in model.named_parameters():
        if "query_mlp" in name:  # tabicl starts them at zero, which would hide them
            torch.nn.init.normal_(weight)
    torch.save({"config": config, "state_dict": model.state_dict()}, path)
    return path


@pytest.mark.parametrize("ssmax", ["mini", *SSMAX])
def test_weights_times_values_are_the_output_of_every_block(tmp_path, ssmax):
    tabicl = DifferentiableTabICL(MINI if ssmax == "mini" else random_checkpoint(tmp_path / "tabicl.ckpt", ssmax))
    seen = []

    def check(attention, inputs, output):
        rows, known, values = inputs
        *_, weight = attention.in_proj_weight.chunk(3)
        *_, bias = attention.in_proj_bias.chunk(3)
        v = (values @ weight.T + bias).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        weights = attention_weights(attention, rows, known)
        expected = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
        seen.append(weights.mean(1)[:, 6:])

    blocks = tabicl.model.icl_predictor.tf_icl.blocks
    hooks = [block.attn.register_forward_hook(check) for block in blocks]
    actual = tabicl.attention(*problem())
    assert len(seen) == len(blocks)
    torch.testing.assert_close(actual, torch.stack(seen, 1))
    for hook in hooks:
        hook.remove()


def test_reading_changes_nothing_and_leaves_nothing_behind():
    tabicl = DifferentiableTabICL(MINI)
    before = tabicl.logits(*problem())
    weights = tabicl.attention(*problem())
    assert torch.equal(tabicl.logits(*problem()), before)
    assert all(not block.attn._forward_pre_hooks for block in tabicl.model.icl_predictor.tf_icl.blocks)
    assert weights.shape == (1, len(tabicl.model.icl_predictor.tf_icl.blocks), 7, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert weights.min() >= 0


def test_hooks_are_removed_after_an_error():
    tabicl = DifferentiableTabICL(MINI)
    context, y, queries, member = problem()
    with pytest.raises(RuntimeError):
        tabicl.attention(context, y[:-1], queries[..., :-1], member)
    assert all(not block.attn._forward_pre_hooks for block in tabicl.model.icl_predictor.tf_icl.blocks)


def test_queries_attend_independently_and_rows_keep_their_order():
    tabicl = DifferentiableTabICL(MINI)
    context, y, queries, member = problem()
    weights = tabicl.attention(context, y, queries, member)
    alone = tabicl.attention(context, y, queries[:, 2:3], member)
    torch.testing.assert_close(weights[:, :, 2:3], alone, rtol=1e-4, atol=1e-5)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    member = Member(False, member.features, member.classes)
    weights = tabicl.attention(context, y, queries, member)
    shuffled = tabicl.attention(context[:, order], y[order], queries, member)
    torch.testing.assert_close(shuffled, weights[..., order], rtol=1e-4, atol=1e-5)
