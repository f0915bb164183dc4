"""Jacobians of the real UNet: what is varied."""


def test_pullback_varies_the_latent_alone(shaped, run, monkeypatch):
    from pack.host import jacobians

    world, found, search = shaped("SD15 inpaint"), [], jacobians.leading_right_vectors
    monkeypatch.setattr(jacobians, "leading_right_vectors", lambda *args, **more: found.append(search(*args, **more)) or found[-1])
    run(
        "DiscoverDirections",
        model=world.model,
        positive=world.encode("a portrait"),
        negative=world.encode(""),
        method="pullback",
        latent=world.empty(size=8),
        images=1,
        batch_size=1,
        steps=2,
        cfg=2.0,
        seed=0,
        count=2,
        percent=0.0,
        iterations=2,
    )
    vectors, _ = found[0]
    assert vectors[:, 4:].norm() < 1e-3 * vectors.norm()
