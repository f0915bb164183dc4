import pytest
import torch
from torch import nn

from pack.core.lora.training import MOST_SKIPPED, LoraTraining, contrast_target, derivative, distance, norms


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


V = [random(i, 2, 4, 8, 8) for i in range(3)]


def test_the_derivative_of_a_noisy_picture_is_its_noise():
    picture, noise, sigma = random(7, 2, 4, 8, 8), random(8, 2, 4, 8, 8), torch.tensor([0.5, 3.0])
    x = picture + sigma[:, None, None, None] * noise
    torch.testing.assert_close(derivative(x, picture, sigma), noise, rtol=1e-4, atol=1e-4)


def test_a_target_has_the_norm_of_the_neutral_prediction_and_the_contrast_s_direction():
    neutral, plus, minus = V
    target = contrast_target(neutral, plus, minus, 2.0)
    torch.testing.assert_close(norms(target), norms(neutral))
    moved = neutral + 2 * (plus - minus)
    torch.testing.assert_close(target / norms(target), moved / norms(moved))


def test_no_contrast_is_no_change():
    neutral, plus, _ = V
    torch.testing.assert_close(contrast_target(neutral, plus, plus, 4.0), neutral)


def test_the_signs_are_each_other_s_opposites():
    neutral, plus, minus = V
    torch.testing.assert_close(contrast_target(neutral, plus, minus, -3.0), contrast_target(neutral, minus, plus, 3.0))


def test_a_batch_is_its_singles():
    both = contrast_target(*V, 2.0)
    singles = [contrast_target(*(v[i : i + 1] for v in V), 2.0) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(singles))


def test_outside_the_mask_the_target_is_the_neutral_prediction():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    target = contrast_target(*V, 2.0, mask)
    assert torch.equal(target[..., 4:], V[0][..., 4:])
    assert torch.equal(target[..., :4], contrast_target(*V, 2.0)[..., :4])


def trained(rate=0.05, updates=200, start=None, target=None):
    weight = nn.Parameter(torch.zeros(8) if start is None else start)
    training, target = LoraTraining([weight], rate, updates), random(3, 8) if target is None else target
    for _ in range(updates):
        output = 2 * weight
        training.descend(distance(output, target), output)
        training.update()
    return weight, training, target


def test_training_goes_to_the_least_loss():
    weight, training, target = trained()
    torch.testing.assert_close(2 * weight.detach(), target, rtol=0, atol=0.02)
    assert training.losses[-1] < 1e-3 * training.losses[0]


def test_the_gradients_of_several_losses_add_up():
    one, two = (nn.Parameter(random(5, 8)) for _ in range(2))
    a, b = 20 * random(6, 8), -9 * random(7, 8)  # whose gradients differ in sign, of which the first step of Adam is made
    together, apart = LoraTraining([one], 0.1, 10), LoraTraining([two], 0.1, 10)
    whole = 3 * one
    together.descend(distance(whole, a) + distance(whole, b), whole)
    for target in (a, b):
        output = 3 * two
        apart.descend(distance(output, target), output)
    together.update()
    apart.update()
    torch.testing.assert_close(one, two)
    assert apart.losses == pytest.approx(together.losses)


class Overflowing(torch.autograd.Function):
    """The identity, whose gradient passes a dtype that ends at a largest value."""

    most = 0.1

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.where(gradient.abs() > Overflowing.most, torch.inf, gradient)


def test_a_gradient_that_overflows_is_tried_again_at_a_smaller_scale():
    weight = nn.Parameter(torch.zeros(8))
    training, done = LoraTraining([weight], 0.1, 10), []
    for _ in range(4):
        output = Overflowing.apply(weight)
        training.descend(distance(output, random(4, 8)), output)
        done.append(training.update())
        assert torch.isfinite(weight).all()
    assert done == [False, False, True, True]
    assert len(training.losses) == 2


def test_what_never_becomes_a_number_is_refused_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(Overflowing, "most", 0.0)
    weight = nn.Parameter(torch.ones(8))
    training = LoraTraining([weight], 0.1, 10)

    def once():
        output = Overflowing.apply(weight)
        training.descend(distance(output, random(4, 8)), output)
        training.update()

    for _ in range(MOST_SKIPPED - 1):
        once()
    with pytest.raises(ValueError, match="learning_rate: the gradient became"):
        once()
    assert torch.equal(weight, torch.ones(8))


def test_a_loss_that_is_no_number_is_refused():
    weight = nn.Parameter(torch.ones(8))
    training = LoraTraining([weight], 0.1, 10)
    output = weight * torch.tensor(float("nan"))
    with pytest.raises(ValueError, match="learning_rate: the loss became nan at update 1"):
        training.descend(distance(output, torch.zeros(8)), output)


def test_an_update_is_clipped():
    """Adam divides by the gradient's size; what is left of a huge one is its direction alone, and a later small one still counts."""
    small, huge = (trained(updates=3, target=scale * random(3, 8))[0] for scale in (1e3, 1e6))
    torch.testing.assert_close(small, huge, rtol=1e-3, atol=1e-5)
