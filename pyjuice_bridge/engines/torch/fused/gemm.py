"""Matrix products inside kernels: the BLAS that PyTorch has loaded, called by address.

A product is then made by the thread that made its factors, while they are in its cache.  The BLAS
has to be told that it is to use that thread alone: PyTorch has it use several whatever calls it,
and it then waits for threads that do not come.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@cache
def gemm_entry() -> int:
    """Return the address of the BLAS routine; 0 where PyTorch has none that can be called."""
    routine = _symbol("sgemm")
    return routine if set_blas_threads() else 0


def set_blas_threads() -> int:
    """Return the address of what sets the BLAS's number of threads for the calling thread."""
    return _symbol("MKL_Set_Num_Threads_Local")


@cache
def _symbol(name: str) -> int:
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        found = getattr(ctypes.CDLL(str(library)), name)
    except (AttributeError, OSError):
        return 0
    return ctypes.cast(found, ctypes.c_void_p).value or 0


@intrinsic
def gemm(  # type: ignore[no-untyped-def]
    typing_context,
    entry,
    turn_a,
    turn_b,
    rows,
    columns,
    inner,
    a,
    step_a,
    b,
    step_b,
    beta,
    c,
    step_c,
):
    """C = op(A)·op(B) + beta·C, all row-major float32.

    op(A) is rows × inner and op(B) inner × columns; ``turn_a`` and ``turn_b`` say whether they
    are transposed where they are.  ``a``, ``b`` and ``c`` are addresses, the steps are numbers
    from row to row, ``beta`` is 0 or 1, ``entry`` is from :func:`gemm_entry`.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number, place = ir.FloatType(), ir.IntType(8).as_pointer()

        def slot(value: Any) -> Any:
            return builder.bitcast(cgutils.alloca_once_value(builder, value), place)

        def letter(turned: Any) -> Any:
            letters = (ir.Constant(ir.IntType(8), ord(x)) for x in "TN")
            return slot(builder.select(builder.trunc(turned, ir.IntType(1)), *letters))

        def count(value: Any) -> Any:
            return slot(builder.trunc(value, ir.IntType(32)))

        def at(value: Any) -> Any:
            return builder.inttoptr(value, place)

        entry, turn_a, turn_b, m, n, k, a, lda, b, ldb, beta, c, ldc = args
        routine = builder.inttoptr(entry, ir.FunctionType(ir.VoidType(), [place] * 13).as_pointer())
        # BLAS is column-major: it is given the transposed product.
        words = [letter(turn_b), letter(turn_a), count(n), count(m), count(k)]
        factors = [slot(number(1.0)), at(b), count(ldb), at(a), count(lda)]
        sums = [slot(builder.sitofp(beta, number)), at(c), count(ldc)]
        builder.call(routine, words + factors + sums)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(*[whole] * 13), generate
