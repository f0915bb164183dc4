"""Graphs of which one node takes long."""


def train_attribute(graph):
    node = graph.own(
        "TrainAttribute",
        model=graph.model,
        **graph.prompts,
        vae=graph.vae,
        sampler=graph.sampler(),
        sigmas=graph.sigmas(5),
        latent=graph.empty(),
        seeds=1,
        cfg=1.0,
    )
    graph.own("SaveAttribute", attribute=[node, 0])
    return node


def train_direction(graph):
    node = graph.own(
        "TrainDirection",
        model=graph.model,
        **graph.prompts,
        vae=graph.vae,
        latent=graph.empty(),
        images=2,
        batch_size=1,
        epochs=1,
        steps=3,
        cfg=1.0,
    )
    graph.own("SaveDirection", direction=[node, 0])
    return node


def discover_directions(graph, method="PCA"):
    prompts = {"positive": graph.prompts["source"], "negative": graph.prompts["negative"]}
    node = graph.own(
        "DiscoverDirections",
        model=graph.model,
        **prompts,
        latent=graph.empty(),
        method=method,
        images=6,
        batch_size=2,
        steps=5,
        cfg=1.0,
        count=2,
        iterations=2,
    )
    graph.own("SaveDirection", direction=[node, 0])
    return node


def discover_by_jacobian(graph):
    return discover_directions(graph, "Jacobian")


def direction_from_prompts(graph):
    node = graph.own(
        "DirectionFromPrompts", model=graph.model, **graph.prompts, latent=graph.empty(), images=4, batch_size=2, steps=4, cfg=1.0
    )
    graph.own("SaveDirection", direction=[node, 0])
    return node


def invert(graph):
    node = graph.own("Invert", model=graph.model, positive=graph.prompts["source"], latent=graph.drawn(steps=1), sigmas=graph.sigmas(5))
    graph.save([node, 1])
    return node


def editing_schedule(graph):
    prompts = {"positive": graph.prompts["source"], "negative": graph.prompts["negative"]}
    node = graph.own("EditingSchedule", model=graph.model, **prompts, vae=graph.vae, latent=graph.empty(), images=2, steps=6, cfg=1.0)
    graph.save(graph.out("VAEEncode", pixels=[node, 3], vae=graph.vae))
    return node


def guided(graph, name, steps, **inputs):
    guider = graph.out("CFGGuider", model=graph.model, positive=graph.prompts["source"], negative=graph.prompts["negative"], cfg=1.0)
    node = graph.own(
        name,
        noise=graph.out("RandomNoise"),
        guider=guider,
        sampler=graph.sampler(),
        sigmas=graph.sigmas(steps),
        latent_image=graph.empty(),
        **inputs,
    )
    graph.save([node, 0])
    return node


def sample_trajectory(graph):
    return guided(graph, "SampleTrajectory", 16)


def explore_singular_vectors(graph):
    return guided(graph, "ExploreSingularVectors", 6, triplets="1-3", gains="0, 2", batch_size=2)


def asymmetric_sampling(graph):
    latent = graph.drawn(model=applied(graph, asymmetric=True), steps=6)
    graph.save(latent)
    return latent[0]


def applied(graph, **inputs):
    """The model with a direction from a file."""
    return [
        graph.own(
            "ApplyDirection",
            model=graph.model,
            direction=[graph.own("LoadDirection", file="portrait_direction_sunglasses.safetensors"), 0],
            **inputs,
        ),
        0,
    ]


LONG = [
    train_attribute,
    train_direction,
    discover_directions,
    discover_by_jacobian,
    direction_from_prompts,
    invert,
    editing_schedule,
    sample_trajectory,
    explore_singular_vectors,
    asymmetric_sampling,
]
