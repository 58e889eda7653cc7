"""`babelscope circuits import|export`: circuits of edges as files of the MIB benchmark and EAP-IG."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

_Replace = Annotated[bool, Parameter(help="Replace an existing file.")]


def import_graph(
    file: Annotated[Path, Parameter(help="Graph of EAP-IG or MIB (.json).")],
    *,
    out: Annotated[Path, Parameter(help="Circuit to write (.safetensors, and .json to be read by people).")],
    kv_heads: Annotated[int | None, Parameter(help="Key/value heads of the model; default: as many as heads.")] = None,
    overwrite: _Replace = False,
) -> None:
    """Turn a graph of the MIB benchmark into a circuit; nothing in the file is run.

    For example:

      babelscope circuits import ioi-eap-ig.json --out circuits/ioi
    """
    from dataclasses import replace

    from babelscope.circuits.edges.circuit import circuit_file
    from babelscope.circuits.edges.mib import read_graph
    from babelscope.errors import InputError

    target = circuit_file(out)
    _refuse_existing(target, overwrite)
    circuit = read_graph(file)
    if kv_heads is not None:
        if kv_heads < 1 or circuit.wiring.heads % kv_heads:
            raise InputError(f"--kv-heads {kv_heads}: {circuit.wiring.heads} heads are not shared by so many")
        circuit = read_graph(file, replace(circuit.wiring, kv_heads=kv_heads))
    circuit.save(target)
    print(f"{target}: {circuit.size} edges out of {len(circuit.nodes)} nodes")


def export_graph(
    file: Annotated[Path, Parameter(help="Circuit of a run (circuits/CODE.safetensors).")],
    *,
    out: Annotated[Path, Parameter(help="Graph to write (.json).")],
    width: Annotated[int, Parameter(help="The model's width, which some readers want.")] = 0,
    overwrite: _Replace = False,
) -> None:
    """Write a circuit as a graph that EAP-IG and the MIB benchmark read.

    For example:

      babelscope circuits export runs/ioi/circuits/en.safetensors --out graph.json
    """
    from babelscope.circuits.edges.circuit import Circuit
    from babelscope.circuits.edges.mib import write_graph

    _refuse_existing(out, overwrite)
    circuit = Circuit.load(file)
    write_graph(circuit, out, width)
    print(f"{out}: {circuit.size} edges")


def _refuse_existing(out: Path, overwrite: bool) -> None:
    from babelscope.errors import InputError

    if out.exists() and not overwrite:
        raise InputError(f"{out} exists; give --overwrite to replace it")
