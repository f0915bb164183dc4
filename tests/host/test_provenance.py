"""Which prompts a node was given, as the running graph tells."""


def test_the_prompts_are_found_in_the_running_graph(demo, run, sampler_of, pack_nodes):
    from types import SimpleNamespace

    from pack.host.provenance import prompt_notes

    graph = {
        "1": {"inputs": {"text": "a portrait"}},
        "2": {"inputs": {"text": "a portrait, hat"}},
        "3": {"inputs": {"conditioning": ["2", 0], "start": 0.1}},
        "4": {"inputs": {"conditioning": ["4", 0]}},
        "9": {"inputs": {"source": ["1", 0], "target": ["3", 0], "negative": ["4", 0]}},
    }
    node = SimpleNamespace(hidden=SimpleNamespace(prompt=graph, unique_id="9"))
    assert prompt_notes(node, "source", "target", "negative") == {"source": "a portrait", "target": "a portrait, hat"}
    assert prompt_notes(SimpleNamespace(hidden=None), "source") == {}
