from __future__ import annotations

import torch

from vtbench.networks._gaussian import Posterior, code
from vtbench.networks.vavae import Config, Network

MEAN, LOG_VARIANCE = torch.zeros(3, 8, 32, 32), torch.full((3, 8, 32, 32), -2.0)


def test_the_mean_is_the_default() -> None:
    assert torch.equal(code(MEAN + 1, LOG_VARIANCE, Posterior(), limits=None), MEAN + 1)


def test_a_draw_has_the_posteriors_deviation() -> None:
    drawn = code(MEAN, LOG_VARIANCE, Posterior(sample=True), limits=(-30.0, 20.0))
    assert abs(drawn[0].mean()) < 0.02
    assert abs(drawn[0].std() - torch.e**-1.0) < 0.01  # 8,192 values: standard error 0.003


def test_a_draw_is_the_same_for_any_batch_and_another_for_another_seed() -> None:
    config = Posterior(sample=True, seed=3)
    together = code(MEAN, LOG_VARIANCE, config, limits=None)
    assert torch.equal(together[1:2], code(MEAN[1:2], LOG_VARIANCE[1:2], config, limits=None))
    assert not torch.equal(together, code(MEAN, LOG_VARIANCE, Posterior(sample=True, seed=4), limits=None))


def test_the_log_variance_is_clamped_where_the_published_code_does() -> None:
    wild = torch.full_like(MEAN, 60.0)
    clamped = code(MEAN, wild, Posterior(sample=True), limits=(-30.0, 20.0))
    assert clamped.std() < 1.1 * torch.e**10
    assert code(MEAN, wild, Posterior(sample=True), limits=None).std() > 1e12


def test_a_card_can_ask_for_a_draw() -> None:
    small = {"channels": 32, "multipliers": (1, 1), "blocks": 1, "z_channels": 4}
    torch.manual_seed(0)
    network = Network(Config(**small))
    drawing = Network(Config(**small, sample=True, seed=1))
    drawing.load_state_dict(network.state_dict())
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    mean, drawn, again = network.encode(x).latent, drawing.encode(x).latent, drawing.encode(x).latent
    assert torch.equal(drawn, again)
    assert not torch.equal(mean, drawn)
