"""The verbs of `ve template`."""

from ve import _options as opt
from ve import _output as out
from ve._app import Context, group, verb

group("template", "Templates: the read-only file systems that VEs are made from.")


@verb("template list")
def template_list(ctx: Context, as_json: opt.Json = False) -> None:
    """List templates and their versions."""
    print(out.render(out.TEMPLATES, ctx.obj.host().templates.list(), as_json), end="")


@verb("template add")
def template_add(ctx: Context, name: opt.NewTemplate, source: opt.Rootfs) -> None:
    """Make a template from a root file system."""
    store = ctx.obj.host(name).templates
    with out.progress(name) as tell:
        made = store.add(name, source, progress=tell)
    ctx.obj.say(f"template {made.ref} is added")


@verb("template build")
def template_build(
    ctx: Context, kind: opt.Kind, name: opt.TemplateName = None, suite: opt.Suite = None, include: opt.Packages = ""
) -> None:
    """Build a template on this host."""
    store = ctx.obj.host(kind).templates
    with out.progress(kind) as tell:
        made = store.build(kind, name=name, suite=suite, include=tuple(filter(None, include.split(","))), progress=tell)
    ctx.obj.say(f"template {made.ref} is built")


@verb("template remove")
def template_remove(ctx: Context, template: opt.Ref) -> None:
    """Remove a version of a template, or all of them, if unused."""
    ctx.obj.host(template).templates.remove(template)
    ctx.obj.say(f"template {template} is removed")
