"""Which prompt each sample goes by: every prompt, evenly, in turn, by the seed."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from vecaf_hf.text.domains import Domains

PROMPTS = ["It snows.", "It rains.", "It is foggy.", "It is night."]


@given(count=st.integers(1, 4), size=st.integers(1, 40), loops=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_in_each_loop_prompts_are_dealt_evenly_and_a_sample_meets_them_in_turn(count, size, loops, seed):
    domains = Domains.deal(PROMPTS[:count], size, loops, seed)
    assert domains.turns.shape == (min(count, loops), size)
    before = None
    for loop in range(loops):
        now = domains.in_loop(loop)
        sizes = torch.bincount(now, minlength=count)
        assert int(sizes.max() - sizes.min()) <= 1
        assert before is None or torch.equal(now, (before + 1) % count)
        before = now


def test_the_deal_is_the_seeds_whatever_the_global_generator_does():
    deals = []
    for seed in (0, 0, 1):
        torch.rand(3)
        before = torch.get_rng_state()
        deals.append(Domains.deal(PROMPTS, 50, 2, seed).turns)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(deals[0], deals[1]) and not torch.equal(deals[0], deals[2])


def test_some_of_the_samples_keep_theirs():
    domains, some = Domains.deal(PROMPTS, 20, 3, 0), torch.tensor([7, 2, 19])
    for loop in range(5):
        assert torch.equal(domains.of(some).in_loop(loop), domains.in_loop(loop)[some])
