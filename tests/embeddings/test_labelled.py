"""The record that every floor uses."""

import torch

from synthicl.embeddings.labelled import LabelledEmbeddings, fingerprint


def test_rows_are_chosen_with_all_that_belongs_to_them():
    whole = LabelledEmbeddings(torch.randn(4, 2), torch.tensor([0, 1, 2, 0]), views=2, soft_labels=torch.rand(4, 3))
    chosen = whole.at(torch.tensor([3, 1]))
    assert torch.equal(chosen.z, whole.z[[3, 1]])
    assert chosen.y.tolist() == [0, 1]
    assert torch.equal(chosen.soft_labels, whole.soft_labels[[3, 1]])
    assert chosen.views == 1
    assert whole._replace(soft_labels=None).at(torch.tensor([0])).soft_labels is None


def test_a_fingerprint_is_of_the_numbers():
    z = torch.randn(3, 2)
    assert fingerprint(z, None) == fingerprint(z.clone())
    assert fingerprint(z) != fingerprint(z + 1)
