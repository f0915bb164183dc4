"""The demo scorer and the text encoder of the checkpoint."""

import torch


def test_the_demo_scorer_and_the_checkpoint_s_text_encoder_are_a_pair(demo, run):
    """Drawn faces are nearest to their own prompt, by the host's own CLIP vision call."""
    import numpy as np

    from pack.demo import faces, prompts
    from pack.host.scorer import ImageScorer, text_embedding

    wanted = [
        dict(glasses="sunglasses"),
        dict(hat="hat"),
        dict(skin="dark", style="bald"),
        dict(background="green"),
        dict(hair="blue", style="curly"),
    ]
    shown = [
        faces.sample_face(
            np.random.default_rng([77, i]), **{**dict(glasses="none", hat="none", skin="pale", background="white", style="short"), **w}
        )
        for i, w in enumerate(wanted)
    ]
    pictures = torch.stack([torch.from_numpy(faces.render(face).copy()) for face in shown]).float() / 255
    clip_vision = run("DemoScorer")[0]
    embeddings = clip_vision.encode_image(pictures)["image_embeds"]
    texts = torch.stack([text_embedding(demo.clip, prompts.prompt_for(w)) for w in wanted])
    likeness = torch.nn.functional.normalize(embeddings, dim=1) @ torch.nn.functional.normalize(texts - texts.mean(0), dim=1).T
    assert (likeness.argmax(1) == torch.arange(5)).sum() >= 4
    with torch.inference_mode(False), torch.no_grad():
        torch.testing.assert_close(
            ImageScorer(clip_vision).embed(pictures.clone().movedim(-1, 1)), embeddings.clone(), rtol=1e-2, atol=2e-2
        )
