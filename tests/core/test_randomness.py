import itertools

import pytest
import torch

from synthicl.core.randomness import derive_seed, keyed_generator

KEYS = [(), (0,), (1,), (-1,), ("0",), (0, 0), (0, 1), (1, 0), ("ab", "c"), ("a", "bc"), ("abc",), (2**40,), ("é",)]


def test_seed_is_the_same_on_every_machine():
    assert derive_seed(0, "bank", 3) == 5502246249884185041


def test_seeds_of_different_keys_differ():
    assert len({derive_seed(*key) for key in KEYS}) == len(KEYS)
    assert len({derive_seed(seed, step) for seed, step in itertools.product(range(50), range(50))}) == 2500


@pytest.mark.parametrize("key", KEYS)
def test_seed_is_what_torch_takes(key):
    assert 0 <= derive_seed(*key) < 2**63
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    keyed_generator(*key)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_stream_is_a_function_of_the_key():
    first, again, other = (torch.randn(100, generator=keyed_generator(5, step)) for step in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_streams_of_neighbouring_keys_are_unrelated():
    draws = torch.stack([torch.randn(2000, generator=keyed_generator(0, step)) for step in range(10)])
    correlation = torch.corrcoef(draws) - torch.eye(10)
    assert correlation.abs().max() < 0.1  # the standard deviation is 0.022
