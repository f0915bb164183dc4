"""The nodes have every text in Chinese and Japanese, in the language's own script.

Each text says what the English one says in figures and names.

locales/en holds the English that the translations were made from. When a test says that a node's text changed: translate
it in zh, zh-TW and ja, then put the English into locales/en/nodeDefs.json as well.
"""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENCODINGS = {"zh": "gb2312", "zh-TW": "big5", "ja": "shift_jis"}  # each lacks the others' forms of the characters
IDEOGRAPH, KANA = re.compile("[\u4e00-\u9fff]"), re.compile("[\u3041-\u30fe]")
UNIVERSAL = {"cfg", "eta", "CLIP", "VAE", "SVD", "SSIM", "PSNR", "Latent", "latent", "Sigmas"}  # names that need no translation
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
SYNTAX = re.compile(r"[{}@|%]")  # of vue-i18n; the frontend reads it in some texts, and shows it as it stands in others

for_each_language = pytest.mark.parametrize("language", ENCODINGS)


def read(language, name="nodeDefs.json"):
    return json.loads((ROOT / "locales" / language / name).read_text(encoding="utf-8"))


def texts(branch, path=""):
    """Every text of a file by its place: {"SemanticLatents_Invert.inputs.sigmas.tooltip": "From ..."}."""
    if isinstance(branch, str):
        return {path: branch}
    return {place: text for key, child in branch.items() for place, text in texts(child, f"{path}.{key}" if path else key).items()}


def words(name, port):
    return {"name": port.display_name or name, "tooltip": port.tooltip}


@pytest.fixture(scope="module")
def english(pack_nodes):
    """The nodes' own texts, in the form of a locale's file."""
    schemas = {name: node.define_schema() for name, node in pack_nodes.items()}
    return texts(
        {
            name: {
                "display_name": schema.display_name,
                "description": schema.description,
                "inputs": {port.id: words(port.id, port) for port in schema.inputs},
                "outputs": {str(i): words(port.id, port) for i, port in enumerate(schema.outputs)},
            }
            for name, schema in schemas.items()
        }
    )


def sentences(language):
    """The descriptions and tooltips."""
    return {place: text for place, text in texts(read(language)).items() if place.endswith((".description", ".tooltip"))}


def test_translations_are_of_the_present_english(english):
    known = texts(read("en"))
    assert {place: text for place, text in english.items() if known.get(place) != text} == {}, "new or changed; see the top of this file"
    assert set(known) == set(english), "of nodes, inputs or outputs that are gone"


@for_each_language
def test_every_text_is_translated_and_none_of_anything_else(language, english):
    ours = texts(read(language))
    assert set(english) - set(ours) == set()
    assert set(ours) - set(english) == set()


@for_each_language
def test_nothing_is_left_in_english(language):
    for place, text in texts(read(language)).items():
        assert IDEOGRAPH.search(text) or KANA.search(text) or place.endswith("name") and text in UNIVERSAL, f"{place}: {text}"


@for_each_language
def test_every_text_is_in_the_languages_own_script(language):
    for place, text in (texts(read(language)) | texts(read(language, "main.json"))).items():
        assert text == text.encode(ENCODINGS[language], "replace").decode(ENCODINGS[language]), place
    for place, text in sentences(language).items():
        assert bool(KANA.search(text)) == (language == "ja"), f"{place}: {text}"


@for_each_language
def test_figures_are_those_of_the_english(language, english):
    ours = texts(read(language))
    for place in english.keys() & sentences(language).keys():
        lost = set(NUMBER.findall(english[place])) - set(NUMBER.findall(ours[place]))
        assert not lost, f"{place}: {lost}"


@for_each_language
def test_choices_are_called_as_the_widget_shows_them(language, english, pack_nodes):
    """The frontend does not translate a combo's values."""
    ours = texts(read(language))
    for name, node in pack_nodes.items():
        for port in node.define_schema().inputs:
            place = f"{name}.inputs.{port.id}.tooltip"
            for choice in getattr(port, "options", None) or ():
                if re.search(rf"\b{re.escape(choice)}\b", english[place]):
                    assert choice in ours[place], f"{place}: {choice}"


@for_each_language
def test_nodes_are_called_as_they_are_in_this_language(language, english):
    """A tooltip that sends the user to another node of the pack uses the name that its title shows."""
    ours = texts(read(language))
    titles = {place: text.split(" (")[0] for place, text in english.items() if place.endswith("display_name")}
    for place, text in sentences("en").items():
        for named, title in titles.items():
            if re.search(rf"\b{title}\b", text):
                assert ours[named].split("（")[0] in ours[place], f"{place}: {title}"


@for_each_language
def test_names_are_told_apart(language):
    nodes = read(language)
    names = [
        [node["display_name"] for node in nodes.values()],
        *([port["name"] for port in node["inputs"].values()] for node in nodes.values()),
    ]
    for group in names:
        assert len(set(group)) == len(group), group


@pytest.mark.parametrize("language", ("en", *ENCODINGS))
def test_no_text_is_syntax_to_the_frontend(language):
    for place, text in texts(read(language)).items():
        assert not SYNTAX.search(text), f"{place}: {text}"
        assert text == text.strip(), place


@for_each_language
def test_the_category_is_translated(language, pack_nodes):
    main = read(language, "main.json")
    assert list(main) == ["nodeCategories"]
    assert set(main["nodeCategories"]) == {node.define_schema().category for node in pack_nodes.values()}
    assert all(IDEOGRAPH.search(text) and not SYNTAX.search(text) for text in main["nodeCategories"].values())


def test_the_host_serves_them(tmp_path, monkeypatch):
    import folder_paths

    # The host's nodes.py puts its comfy/ first on the path, where another module is called utils: the host imports its package before.
    monkeypatch.syspath_prepend(Path(folder_paths.__file__).parent)
    if not hasattr(sys.modules.get("utils"), "__path__"):
        monkeypatch.delitem(sys.modules, "utils", raising=False)
    from app.custom_node_manager import CustomNodeManager

    (tmp_path / "semantic_latents").symlink_to(ROOT)
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path)])
    served = CustomNodeManager().build_translations()
    assert set(served) == {"en", *ENCODINGS}
    for language in served:
        assert served[language]["nodeDefs"] == read(language)
        assert language == "en" or served[language]["nodeCategories"] == read(language, "main.json")["nodeCategories"]
