"""The demo scorer and the text encoder of the checkpoint."""

import torch


def test_the_demo_scorer_and_the_checkpoint_s_text_encoder_are_a_pair(demo, scorer):
    """Drawn faces are nearest to their own prompt, by the host's own CLIP vision call."""
    import numpy as np

    from pack.demo import captions, drawing, faces
    from pack.host.scorer import ImageScorer, text_embedding

    wanted = [
        dict(glasses="sunglasses"),
        dict(hat="hat"),
        dict(skin=0.9, style="bald"),
        dict(background="green"),
        dict(hair="blue", style="curly"),
    ]
    plain = dict(glasses="none", hat="none", skin=0.1, background="white", style="straight")
    shown = [faces.sample_face(np.random.default_rng([77, i]), **plain | labels) for i, labels in enumerate(wanted)]
    pictures = torch.stack([torch.from_numpy(drawing.render(face).copy()) for face in shown]).float() / 255
    embeddings = scorer["clip_vision"].encode_image(pictures)["image_embeds"]
    texts = torch.stack([text_embedding(demo.clip, captions.prompt_for(**labels)) for labels in wanted])
    likeness = torch.nn.functional.normalize(embeddings, dim=1) @ torch.nn.functional.normalize(texts - texts.mean(0), dim=1).T
    assert (likeness.argmax(1) == torch.arange(5)).sum() >= 4
    with torch.inference_mode(False), torch.no_grad():
        own = ImageScorer(scorer["clip_vision"]).embed(pictures.clone().movedim(-1, 1))
        torch.testing.assert_close(own, embeddings.clone(), rtol=1e-2, atol=2e-2)
