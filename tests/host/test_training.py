"""The gradient that trains a direction, against that of the whole model."""

import pytest
import torch


@pytest.mark.parametrize("in_place", [False, True])
def test_the_gradient_is_that_of_the_whole_model(demo, shaped, monkeypatch, in_place):
    """The gradient of the first loss with respect to the network's last bias fits differences of the loss itself.

    It does so under a patch that writes in place, too.
    """
    from comfy_extras.nodes_freelunch import FreeU_V2

    from pack.core.hspace.network import ImplicitNetwork
    from pack.core.hspace.training import Training
    from pack.host.families import family_of
    from pack.host.runs import noise_for, schedule
    from pack.host.training import Matching, NetworkOnModel, Trainer, TrainingRuns

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: 0.0)
    world = shaped("SD15") if in_place else demo
    model = FreeU_V2.execute(world.model, b1=1.3, b2=1.4, s1=0.9, s2=0.2).args[0] if in_place else world.model
    noise, sigmas = noise_for(model, world.empty(), 2, 0), schedule(model, 3)[:2]
    prompts = {"positive": world.encode("a portrait"), "negative": world.encode(""), "target": world.encode("a portrait, blue hair")}

    def first_update(bias=0.0):
        def begin(size, device):
            network = ImplicitNetwork(family_of(model).channels, size)
            network.leave.bias.data += bias
            return Training(network, 0.0, 1)

        trained = NetworkOnModel()
        runs = TrainingRuns(trained.on(model), trained, prompts, 2.0, sigmas, float(sigmas[0]))
        trainer = Trainer(runs, lambda: None, Matching(0.0), begin)
        trainer.runs.run(trainer, noise)
        return trainer.training

    with torch.inference_mode(False):
        gradient = first_update().network.leave.bias.grad
        step = 0.01 * gradient / gradient.norm()
        up, down = (first_update(sign * step).losses[0] for sign in (1, -1))
    assert (up - down) / 0.02 == pytest.approx(float(gradient.norm()), rel=0.05)
