"""`oxyctl ca`: the certificate authorities of tenants, which sign the certificates of inspected sessions."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from oxyctl.cli.control import ControlOption, NodeOption, complete_tenant, connect, translated_errors
from oxyctl.cli.options import Format, FormatOption, LabOption
from oxyctl.trust import Store

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.control.client import ControlClient
    from proxy.control.schema import AuthorityInfo

app = typer.Typer(help="Certificate authorities of tenants, which clients must trust.", no_args_is_help=True)


class Encoding(enum.StrEnum):
    """Encoding of a certificate."""

    pem = "pem"
    der = "der"


TenantOption = Annotated[
    str | None,
    typer.Option(
        "--tenant", "-t", metavar="NAME", help="Required only if the proxy has several.", autocompletion=complete_tenant
    ),
]


@app.command()
def show(
    tenant: TenantOption = None,
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Show authorities: fingerprint, validity, name constraints, and rotation in progress."""
    from oxyctl.cli.output import print_envelope, print_stderr

    with translated_errors():
        authorities = connect(lab, node, control).authorities(tenant)
    if output == Format.json:
        print_envelope("authorities", authorities)
    elif authorities:
        from oxyctl.render.ca import print_authorities

        print_authorities(authorities)
    else:
        print_stderr("no tenant has an authority, so no sessions are inspected")


@app.command()
def export(
    tenant: TenantOption = None,
    encoding: Annotated[
        Encoding, typer.Option("--encoding", help="PEM, or DER (one certificate only).")
    ] = Encoding.pem,
    only_next: Annotated[bool, typer.Option("--next", help="Only the next authority of a rotation.")] = False,
    file: Annotated[str | None, typer.Option("--file", "-o", metavar="FILE", help="Write to this file.")] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
) -> None:
    """Print the certificate that clients must trust, and the next one during a rotation.

    The key is never printed; it is in the proxy's state directory.
    """
    from oxyctl.errors import NothingMatched

    with translated_errors():
        authority = _authority(connect(lab, node, control), tenant)
    if only_next and authority.next is None:
        raise NothingMatched(f"no rotation is in progress for tenant '{authority.tenant}'")
    text = authority.next.pem if only_next and authority.next is not None else authority.bundle
    if encoding is Encoding.der:
        import ssl

        chosen = authority.next if only_next and authority.next is not None else authority.root
        _write(ssl.PEM_cert_to_DER_cert(chosen.pem), file)
    else:
        _write(text.encode(), file)


@app.command()
def rotate(
    tenant: TenantOption = None,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="DURATION", help="How long clients have to trust it: 7d; 0 for none.")
    ] = "7d",
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Create a new authority, which takes over when the overlap ends. Open sessions continue.

    With `--overlap 0` it takes over at once, even if it was created earlier with an overlap.
    """
    from oxyctl.cli.output import print_envelope
    from oxyctl.errors import UsageError
    from oxyctl.render.ca import rotation_text
    from proxy.control.schema import Rotation, parse_duration

    try:
        overlap_s = 0.0 if overlap.strip() in ("0", "0s") else parse_duration(overlap)
    except ValueError as error:
        raise UsageError(f"--overlap: {error}") from None
    with translated_errors():
        client = connect(lab, node, control)
        authority = client.rotate_authority(Rotation(tenant=_authority(client, tenant).tenant, overlap_s=overlap_s))
    if output == Format.json:
        print_envelope("authorities", [authority])
    else:
        print(rotation_text(authority))


@app.command()
def trust(
    store: Annotated[Store, typer.Argument(help="Trust store: the system, Chromium (nss), Firefox, or one shell.")],
    tenant: TenantOption = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the shell commands instead of running them.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove it from the trust store.")] = False,
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
) -> None:
    """Make programs on this machine trust a tenant's authority.

    `eval "$(oxyctl ca trust env)"` is for what this shell starts: curl, Python, Node.js, git, pip, Cargo, AWS.
    """
    from pathlib import Path

    from oxyctl.cli.output import print_stderr
    from oxyctl.errors import UsageError
    from oxyctl.render.ca import change_text, variables_text
    from oxyctl.trust import stores

    with translated_errors():
        authority = _authority(connect(lab, node, control), tenant)
    name = f"oxyctl-{authority.tenant}"
    pem_file, bundle = _certificate_files(authority, write=not remove)
    if store is Store.env:
        if remove:
            raise UsageError("--remove does not apply to `env`: use `unset` in the shell")
        return print(variables_text(stores.variables(pem_file, bundle)))
    for change in stores.changes(store, name, authority.bundle, pem_file, remove=remove, home=Path.home()):
        if only_print:
            print(change_text(change))
        else:
            stores.carry_out(change)
    if not only_print:
        root = authority.root
        print_stderr(
            f"{store} {'no longer trusts' if remove else 'trusts'} {root.subject} ({root.fingerprint[:23]}...)"
        )
    return None


def _authority(client: ControlClient, tenant: str | None) -> AuthorityInfo:
    """The authority of the named tenant, or of the only one."""
    from oxyctl.errors import UsageError

    if tenant is None:
        names = sorted(client.status().tenants)
        if len(names) != 1:
            raise UsageError(f"the proxy has several tenants: choose one with --tenant: {', '.join(names)}")
        (tenant,) = names
    return client.authorities(tenant)[0]


def _certificate_files(authority: AuthorityInfo, *, write: bool) -> tuple[Path, Path]:
    """Paths in the user's data directory: of the certificate, and of a bundle of it with the system's roots."""
    import os
    from pathlib import Path

    from oxyctl.trust.stores import system_roots

    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "oxyctl/ca"
    pem_file, bundle = home / f"{authority.tenant}.pem", home / f"{authority.tenant}-and-system.pem"
    if write:
        home.mkdir(parents=True, exist_ok=True)
        pem_file.write_text(authority.bundle)
        bundle.write_text(authority.bundle + system_roots())
    return pem_file, bundle


def _write(data: bytes, file: str | None) -> None:
    import sys
    from pathlib import Path

    from oxyctl.errors import OxyctlError

    if file is None or file == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        Path(file).write_bytes(data)
    except OSError as error:
        raise OxyctlError(f"{file}: {error.strerror}") from None
