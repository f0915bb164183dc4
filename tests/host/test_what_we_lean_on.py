"""The page docs/architecture.md says which names of ComfyUI the pack leans on, row by row: they are there, in this host, as it says."""

import ast
import functools
import importlib.util
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGE, HEADING = ROOT / "docs/architecture.md", "## What of ComfyUI the pack leans on"
HOST = ("comfy", "comfy_api", "comfyui_version", "folder_paths", "latent_preview")
# Where the host's memory management hangs things on layers.
MANAGERS = ("comfy.ops", "comfy.model_patcher", "comfy.pinned_memory", "comfy.model_prefetch")


def row_of(line):
    """A row's name, the names of ComfyUI in it, the files that lean on them, and the hosts that have them: (from, before)."""
    cell, files, _ = (part.strip() for part in line.strip("|").split(" | "))
    limits = (re.search(rf"{word} (\d+)\.(\d+)\.(\d+)$", cell) for word in ("from", "before"))
    found = [limit and tuple(map(int, limit.groups())) for limit in limits]
    return SimpleNamespace(name=cell.replace("`", ""), names=re.findall(r"`(.+?)`", cell), files=files.split(", "), hosts=found)


def rows():
    lines = PAGE.read_text().partition(HEADING)[2].splitlines()
    return [row_of(line) for line in lines if line.startswith("| `")]


ROWS = rows()


class Asked(dict):
    """Options that remember which keys the host asks them for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.keys_asked = set()

    def __contains__(self, key):
        self.keys_asked.add(key)
        return super().__contains__(key)

    def get(self, key, default=None):
        self.keys_asked.add(key)
        return super().get(key, default)


class Run:
    """A run of core's guider under prompts with an area and a range of steps, and what is told and asked for in it."""

    def __init__(self, demo):
        import comfy.samplers
        from comfy.patcher_extension import WrappersMP
        from comfy_extras.nodes_freelunch import FreeU_V2

        import nodes

        (positive,) = nodes.ConditioningSetArea().append(demo.encode("a portrait, red hair"), 64, 64, 0, 0, 1.0)
        (positive,) = nodes.ConditioningSetTimestepRange().set_range(positive, 0.0, 1.0)
        self.model = FreeU_V2.execute(demo.model, 1.0, 1.0, 1.0, 1.0).args[0].clone()
        self.model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", self.see_call)
        self.model.set_model_middle_block_after_patch(self.see_middle)
        self.model.set_model_attn1_replace(lambda q, k, v, extra: q, "middle", 0, 0)
        guider = comfy.samplers.CFGGuider(self.model)
        guider.inner_set_conds({"positive": positive, "negative": demo.encode("")})
        guider.set_cfg(2.0)
        sigmas = comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "normal", 2)
        noise = torch.zeros(1, 4, 8, 8)
        self.ksampler = comfy.samplers.KSAMPLER(self.sampler)
        extras = {**conditioning_of(demo), "control_apply_to_uncond": True}
        self.extras = comfy.sampler_helpers.convert_cond([[torch.zeros(1, 1, 8), extras]])[0]
        guider.sample(noise, noise, self.ksampler, sigmas, callback=self.see_step, disable_pbar=True, seed=1)

    def sampler(self, denoiser, x, sigmas, **call):
        """Looks at what the host gives a sampler function, then draws as its euler does."""
        import copy

        from comfy.k_diffusion.sampling import sample_euler

        self.denoiser, self.guider, self.call = denoiser, copy.copy(denoiser.inner_model), dict(call)
        options = Asked(call["extra_args"]["model_options"])
        self.predict(x, options)
        self.model_options = {**dict.fromkeys(options.keys_asked), **options}
        self.predict(x, {**options, "sampler_calc_cond_batch_function": self.see_batch})
        self.predict(x, {**options, "sampler_post_cfg_function": [self.see_cfg_result]})

        def report(state):
            self.state = state
            call["callback"](state)

        return sample_euler(denoiser, x, sigmas, **{**call, "callback": report})

    def predict(self, x, options):
        """One guided prediction with these model options."""
        import comfy.samplers

        conds = self.guider.conds
        comfy.samplers.sampling_function(self.guider.inner_model, x, torch.ones(1), conds["negative"], conds["positive"], 2.0, options)

    def see_batch(self, args):
        self.batch = args
        return [torch.zeros_like(args["input"])] * 2

    def see_cfg_result(self, args):
        self.cfg_result = args
        return args["denoised"]

    def see_step(self, *given):
        self.callback = dict(zip(("step", "denoised", "x", "total"), given, strict=True))

    def see_call(self, executor, *args, **kwargs):
        self.executor, self.options = executor, args[5]
        return executor(*args, **kwargs)

    def see_middle(self, args):
        self.middle = args
        return {"h": args["h"]}


def attention_options_asked():
    """The keys that the host's attention asks its transformer options for."""
    from comfy.ldm.modules.attention import attention_pytorch

    options, q = Asked(), torch.zeros(1, 4, 8)
    attention_pytorch(q, q, q, 1, transformer_options=options)
    return options.keys_asked


class Control:
    """Stands in for a ControlNet in core's nodes that put one into a prompt."""

    def copy(self):
        return self

    def set_cond_hint(self, *args, **kwargs):
        return self

    def set_previous_controlnet(self, previous):
        return self


def conditioning_of(demo):
    """The extras of a CONDITIONING on which core's nodes have put an area, a ControlNet, GLIGEN and hooks."""
    import comfy.hooks

    import nodes

    prompt = demo.encode("a portrait")
    (prompt,) = nodes.ConditioningSetArea().append(prompt, 64, 64, 0, 0, 1.0)
    (prompt,) = nodes.ConditioningSetMask().append(prompt, torch.ones(1, 8, 8), "mask bounds", 1.0)
    (prompt,) = nodes.ControlNetApply().apply_controlnet(prompt, Control(), torch.zeros(1, 8, 8, 3), 1.0)
    clip = SimpleNamespace(tokenize=lambda text: text, encode_from_tokens=lambda tokens, return_pooled: (None, torch.zeros(1, 8)))
    (prompt,) = nodes.GLIGENTextBoxApply().append(prompt, clip, None, "a hat", 8, 8, 0, 0)
    return comfy.hooks.set_hooks_for_conditioning(prompt, comfy.hooks.HookGroup())[0][1]


def latent_of():
    """What LATENTs of core's nodes hold."""
    from comfy_extras.nodes_audio import EmptyLatentAudio

    import nodes

    (latent,) = nodes.EmptyLatentImage().generate(64, 64, 2)
    (picked,) = nodes.LatentFromBatch().frombatch(latent, 1, 1)
    (masked,) = nodes.SetLatentNoiseMask().set_mask(latent, torch.ones(1, 8, 8))
    return {**EmptyLatentAudio.execute(1.0, 1).args[0], **latent, **picked, **masked}


def samplers():
    """The functions behind the host's sampler names, those of its own modules; by their names."""
    import comfy.samplers

    functions = [comfy.samplers.sampler_object(name).sampler_function for name in comfy.samplers.SAMPLER_NAMES]
    return {function.__name__: function for function in functions if function.__module__.startswith("comfy.")}


def hung_on_layers():
    """The names that the host's memory management reads or sets on a layer, as its source has them."""
    text = ""
    for name in MANAGERS:
        try:
            text += inspect.getsource(importlib.import_module(name))
        except ImportError:  # a host may be without one of them
            continue
    found = set(re.findall(r"\b(?:s|m|item|module|lowvram_patch)\.(_\w+)", text)) | set(
        re.findall(r'(?:has|get|del)attr\(\w+, "(_\w+)"', text)
    )
    lowvram = {f"{key}_lowvram_function" for key in ("weight", "bias")} if 'param_key + "_lowvram_function"' in text else set()
    return SimpleNamespace(**dict.fromkeys(found | lowvram))


def caches(model):
    """The keys of the wrappers that core's caching nodes put on a model."""
    from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

    patched = [node.execute(model, 0.2, 0.15, 0.95, False).args[0] for node in (EasyCacheNode, LazyCacheNode)]
    return {key: None for one in patched for kind in one.wrappers.values() for key in kind}


def context_windows():
    from comfy.context_windows import IndexListContextHandler

    return IndexListContextHandler(None, None)


def guided(run):
    """What a run of the host's guider shows, by the first words of the page's names."""
    objects = {name: run.model.get_model_object(name) for name in ("model_sampling", "latent_format", "diffusion_model")}
    return {
        "guider": run.guider,
        "roles": run.guider.conds,
        "denoiser": run.denoiser,
        "ksampler": run.ksampler,
        "call": run.call,
        "extra_args": run.call["extra_args"],
        "state": run.state,
        "callback": run.callback,
        "prompt": {**run.extras, **run.guider.conds["positive"][0]},
        "model": run.model,
        "objects": objects,
        "base": run.model.model,
        "executor": run.executor,
        "middle": run.middle,
        "options": {**dict.fromkeys(attention_options_asked()), **run.options},
        "model_options": run.model_options,
        "batch": run.batch,
        "cfg_result": run.cfg_result,
        "latent_format": objects["latent_format"],
        "levels": objects["model_sampling"],
    }


@pytest.fixture(scope="module")
def examples(demo, shaped, pack_nodes):
    """For the first words of the page's names, functions that make what they stand for: one that fails takes no other row along."""
    seen = functools.cache(lambda: guided(Run(demo)))
    scorer = functools.cache(lambda: pack_nodes["SemanticLatents_DemoScorer"].execute().args)
    made = {
        "samplers": samplers,
        "conditioning": lambda: conditioning_of(demo),
        "unet": lambda: shaped("SDXL").model.model.diffusion_model,
        "windows": context_windows,
        "caches": lambda: caches(demo.model),
        "latent": latent_of,
        "layer": hung_on_layers,
        "clip_vision": lambda: scorer()[0],
        "clip": lambda: scorer()[1],
        "vae": lambda: demo.vae,
    }
    first_words = {re.match(r"\w+", name)[0] for row in ROWS for name in row.names} - set(made) - set(HOST)
    return made | {word: functools.partial(lambda word: seen()[word], word) for word in first_words}


def found(dotted, examples):
    """What a dotted name stands for, and whether its first argument is given by what it was looked up on.

    Raises AttributeError, KeyError, ImportError or StopIteration.
    """
    first, *rest = dotted.split(".")
    if first in examples:
        owner, thing = None, examples[first]()
    else:
        depth = next(i for i in range(len(rest), -1, -1) if importable(".".join([first, *rest[:i]])))
        owner, thing, rest = None, importlib.import_module(".".join([first, *rest[:depth]])), rest[depth:]
    for name in rest:
        owner, thing = thing, getattr(thing, name)
    return thing, inspect.isclass(owner) and inspect.isfunction(thing)


def importable(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


def check_call(function, given, *, unbound):
    """Raise AssertionError unless a function takes these parameters and needs no others."""
    parameters = list(inspect.signature(function).parameters.values())[unbound:]
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    positional, _, named = (part.strip(", ") for part in given.partition("*"))
    wanted = [name for name in positional.split(", ") if name]
    more = "..." in wanted
    wanted = [name for name in wanted if name != "..."]
    got = [p.name for p in places[: len(wanted)]]
    fits = len(got) == len(wanted) and all(name in ("_", other) for name, other in zip(wanted, got))
    assert fits, f"it takes {parameters}"
    names = [name for name in named.split(", ") if name]
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    assert takes_any or set(names) <= {p.name for p in parameters}, f"it takes {parameters}"
    needed = [p.name for p in parameters[len(wanted) :] if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    assert more or set(needed) <= set(names), f"it also needs {needed}"


def check(name, examples):
    """Raise AssertionError unless a name of the page is there as it says: an attribute, a key, or a call."""
    dotted, opening, given = name.partition("(")
    dotted, bracket, key = dotted.partition("[")
    try:
        thing, unbound = found(dotted, examples)
    except (AttributeError, KeyError, ImportError, StopIteration) as error:
        raise AssertionError(f"{name} is not there: {error}") from error
    if bracket:
        assert key.strip('"]') in thing, f"{name} is not there; there are {sorted(map(str, thing))}"
    if opening:
        check_call(thing, given.rstrip(")"), unbound=unbound)


def has_it(row):
    """Whether this host is one of those that a row is of."""
    from comfyui_version import __version__

    version, (first, beyond) = tuple(map(int, __version__.split(".")[:3])), row.hosts
    return (not first or version >= first) and (not beyond or version < beyond)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_host_has(row, examples):
    if not has_it(row):
        pytest.skip("a row of another host")
    for name in row.names:
        check(name, examples)


@pytest.mark.parametrize(
    "name",
    [
        "comfy.samplers.KSAMPLERS",
        "comfy.sampler",
        "guider.patcher",
        'options["sigma"]',
        "comfy.utils.reshape_mask(mask, output_shape)",
        "comfy.utils.reshape_mask(input_mask)",
        "comfy.utils.reshape_mask(input_mask, output_shape, *, mode)",
        "comfy.samplers.CFGGuider.set_cfg(self, cfg)",
    ],
)
def test_a_name_that_the_host_lacks_is_noticed(name, examples):
    with pytest.raises(AssertionError):
        check(name, examples)


def imported(path):
    """The dotted names of ComfyUI, beside its public interface, that a file imports or looks up on what it imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    known = {}
    for alias, module in ((alias, node) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names):
        if isinstance(module, ast.ImportFrom):
            known[alias.asname or alias.name] = f"{module.module}.{alias.name}" if not module.level else ""
        else:
            known[alias.asname or alias.name.partition(".")[0]] = alias.name if alias.asname else alias.name.partition(".")[0]
    dotted = (ast.unparse(node).partition(".") for node in nodes if isinstance(node, (ast.Name, ast.Attribute)))
    names = {known.get(first, "") + dot + rest for first, dot, rest in dotted} | set(known.values())
    return {
        name
        for name in names
        if re.fullmatch(r"(comfy|comfyui_version|folder_paths|latent_preview)\.[\w.]+", name) and not importable(name)
    }


FILES = [*ROOT.glob("host/*.py"), *ROOT.glob("nodes/*.py"), ROOT / "demo/__init__.py", ROOT / "demo/family.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_page_names_what_a_file_imports(path):
    file = str(path.relative_to(ROOT).with_suffix(""))
    listed = {name.partition("(")[0] for row in ROWS if file in row.files for name in row.names}
    missing = [name for name in imported(path) if not any(f"{one}.".startswith(f"{name}.") for one in listed)]
    assert not missing, f"{HEADING[3:]}: no row with {file} names {', '.join(missing)}"


def test_a_row_names_no_file_that_imports_its_name_no_more():
    by_file = {str(path.relative_to(ROOT).with_suffix("")): imported(path) for path in FILES}
    leaning = {name: {file for file, names in by_file.items() if name in names} for name in set().union(*by_file.values())}
    listed = [(name.partition("(")[0], file) for row in ROWS for name in row.names for file in row.files if len(row.names) == 1]
    modules = [(name, file) for name, file in listed if name in leaning and importable(name.rpartition(".")[0])]
    assert modules
    assert not [f"{file}: {name}" for name, file in modules if file not in leaning[name]]


def test_the_page_names_what_the_code_lists():
    """Names that stand in tuples and tables of the code, not in imports."""
    from pack.host.copies import FUNCTIONS, HANDLES
    from pack.host.other_patches import CACHES
    from pack.host.runs import RATIOS
    from pack.host.samplers import KNOWN

    named = {re.split(r"[.\[]", name.partition("(")[0])[-1].strip('"]') for row in ROWS for name in row.names}
    assert {*KNOWN, *HANDLES, *FUNCTIONS, *CACHES, *RATIOS} <= named


def test_no_other_handle_hangs_on_a_layer():
    """A new one would go into the copies through which gradients pass."""
    from pack.host.copies import HANDLES

    private = {name for name in vars(hung_on_layers()) if re.match(r"_(v|pin|prefetch)", name)}
    assert private <= set(HANDLES)


def test_every_file_that_leans_is_there():
    missing = {file for row in ROWS for file in row.files if not (ROOT / f"{file}.py").exists()}
    assert not missing


def test_a_row_of_an_example_names_files_that_say_its_name():
    """Such rows are no imports: each file has to spell the last word of one of the row's names somewhere."""
    rows = [row for row in ROWS if not row.names[0].startswith(HOST) and ".forward(" not in row.name]  # which a call does not spell
    spelt = [(row, file, {re.findall(r"\w+", name.partition("(")[0])[-1] for name in row.names}) for row in rows for file in row.files]
    assert len(spelt) > 100
    wrong = [f"{file}: {row.name}" for row, file, words in spelt if not any(word in (ROOT / f"{file}.py").read_text() for word in words)]
    assert not wrong, "\n".join(wrong)
