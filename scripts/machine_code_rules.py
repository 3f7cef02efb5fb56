"""What makes the hot kernels fast, as properties of their machine code that can be counted: the rules of machine_code.py.

A fused kernel (kernels/hopper/grouped_kernel.cuh) is found by its structure. The loading loop copies to shared memory
(LDGSTS) and the multiplying loop multiplies (HGMMA), a k-tile of 64 a turn, whose products take 1,024 cycles. Around each
is a loop whose turns are tiles. What it does before the loading loop is the tile's start, and what it does behind the
multiplying loop is the epilogue.
"""
import dataclasses
from collections.abc import Callable

import sass

PASSES = 8  # copies of 16 bytes a thread, which make a k-tile of A (kLoadPasses)
VALUES = 128  # of a tile that a thread holds (kValuesPerThread)
TRY = "SYNCS.PHASECHK"  # asks once whether a barrier's phase is over
EXPONENT_OFFSET = "0x1800000"  # by which an exact reciprocal finds divisors that need its slow path


def shown(value):
    return f"{value:,}" if isinstance(value, int) else ", ".join(map(str, value)) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Rule:
    name: str
    measure: Callable  # of a kernel: the value, and the instructions that it counts or where these begin
    wanted: object  # a value, or with `or_less` the largest; None: told, not judged
    or_less: bool = False

    def holds(self, value):
        return self.wanted is None or (value <= self.wanted if self.or_less else value == self.wanted)

    def wish(self):
        return "" if self.wanted is None else "at most " * self.or_less + shown(self.wanted)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A kernel, and what ptxas said of it and of the file that it is in."""
    code: sass.Kernel
    registers: int
    spilled: int  # bytes
    log: str


class Unlike(Exception):
    """The code does not have the structure that the rules are about."""


@dataclasses.dataclass(frozen=True)
class Fused(Compiled):
    start: sass.Region
    loading: sass.Region
    multiplying: sass.Region
    epilogue: sass.Region


def fused(compiled):
    """A fused kernel with its parts. Raises Unlike."""
    code = compiled.code

    def shortest(holds, lacks, around=None):
        for loop in code.loops:
            if loop.instructions(holds) and not loop.instructions(lacks) and (not around or around.blocks < loop.blocks):
                return loop
        raise Unlike(f"a loop with {holds}" + " around another" * bool(around))

    loading, multiplying = shortest("LDGSTS", "HGMMA"), shortest("HGMMA", "LDGSTS")
    loads_tiles = shortest("LDGSTS", "HGMMA", around=loading)
    multiplies_tiles = shortest("HGMMA", "LDGSTS", around=multiplying)
    behind = [to for block in multiplying.blocks for to in code.successors[block] if to not in multiplying.blocks]
    return Fused(**vars(compiled), start=without_loops(loads_tiles), loading=without_waits(loading),
                 multiplying=without_waits(multiplying),
                 epilogue=without_waits(multiplies_tiles.without(multiplying)).reached_from(behind))


def without_loops(region):
    return region.without(*region.loops())


def without_waits(region):
    """Without the loops that ask for a barrier again and again."""
    return region.without(*(loop for loop in region.loops() if any(i.opcode.startswith(TRY) for i in loop.instructions())))


def counted(instructions):
    return len(instructions), instructions


def longest_way(region):
    return region.longest_way(), region.instructions()[:1]


def rows_looked_up(region):
    return region.loads_before_use("LDG"), region.instructions("LDG")[:1]


def products(fused, designed):
    found = fused.multiplying.instructions("HGMMA")
    return counted([i for i in found if (i.opcode == "HGMMA.64x256x16.F32.BF16") == designed])


def waits_for_products(fused):
    waits = [i for i in fused.multiplying.instructions() if i.opcode.startswith("WARPGROUP.DEPBAR")]
    return ", ".join(f"{i.opcode.split('.')[-1]} {i.operands}" for i in waits), waits


def barriers(fused):
    """Full and empty barriers of a stage that are asked and told."""
    asked = [i for i in fused.multiplying.instructions() if i.opcode.startswith(TRY)]
    told = [i for i in fused.multiplying.instructions() if i.opcode.startswith("SYNCS.ARRIVE")]
    return f"{len({i.operands for i in asked})} and {len(told)}", asked + told


def divisions(kernel):
    exact = [i for i in kernel.code.instructions
             if i.name == "FCHK" or i.name in ("IADD3", "VIADD") and EXPONENT_OFFSET in i.operands]
    return counted(exact)


def register_counts(fused):
    changes = fused.code.named("USETMAXREG")
    return [fused.registers] + sorted(int(i.operands.split()[-1], 16) for i in changes), changes


def losses(kernel):
    """What ptxas says where products wait for each other, or registers are not handed over."""
    said = [line.strip() for line in kernel.log.splitlines() if "Performance Loss" in line]
    return len(said), said


SPILLED = Rule("spilled bytes", lambda kernel: (kernel.spilled, kernel.code.named("STL", "LDL")), 0)


def at_most(rule, most):
    return dataclasses.replace(rule, wanted=most, or_less=True) if most else rule


def fused_rules(loading, epilogue, spilled=0, epilogue_local=0, gathers=True, weight_grad=False, empty=False):
    """Bounds are of a warp: instructions a k-tile or a tile along the longest way, some percent above what is there.
    `empty`: the epilogue makes nothing of the products, but the compiler must not know, or it would leave them out."""
    rules = [
        Rule("loading: instructions a k-tile", lambda k: longest_way(k.loading), loading, or_less=True),
        Rule("loading: copies of 16 bytes a k-tile", lambda k: counted(k.loading.instructions("LDGSTS")), PASSES),
        Rule("loading: branches but the leader's", lambda k: counted(k.loading.forks(but=["UTMALDG", TRY])), 0),
        Rule("multiplying: instructions a k-tile", lambda k: longest_way(k.multiplying), 60, or_less=True),
        Rule("multiplying: products of 64x256x16 a k-tile", lambda k: products(k, True), 4),
        Rule("multiplying: other products", lambda k: products(k, False), 0),
        Rule("multiplying: local loads and stores", lambda k: counted(k.multiplying.instructions("LDL", "STL")), 0),
        Rule("multiplying: waits for products (all but one batch)", waits_for_products, "LE gsb0, 0x1"),
        Rule("multiplying: barriers waited for and told", barriers, "1 and 1"),
        Rule("losses that ptxas tells of", losses, 0),
        Rule("epilogue: instructions a tile", lambda k: longest_way(k.epilogue), epilogue, or_less=True),
        at_most(Rule("epilogue: local loads and stores", lambda k: counted(k.epilogue.instructions("LDL", "STL")), 0),
                epilogue_local),
        Rule("calls", lambda k: counted(k.code.named("CALL")), 0),
        Rule("conversions one at a time (F2F)", lambda k: counted(k.code.named("F2F")), 0),
        Rule("exact divisions", divisions, 0),
        Rule("registers: at launch, loading, multiplying", register_counts, [168, 56, 224]),
        at_most(SPILLED, spilled),
    ]
    if gathers:
        rules.insert(0, Rule("tile's start: rows looked up before the first is used", lambda k: rows_looked_up(k.start), PASSES))
    if weight_grad:
        rules += [
            Rule("loading: rows looked up before the first is used", lambda k: rows_looked_up(k.loading), PASSES),
            Rule("epilogue: loads of the sum", lambda k: counted(without_loops(k.epilogue).instructions("LDG")), 0)]
    if empty:
        rules.append(Rule("epilogue: stores, for which products are kept", lambda k: counted(k.epilogue.instructions("STG")), VALUES))
    return rules


def calls_in_loops(kernel):
    inside = {block for loop in kernel.code.loops for block in loop.blocks}
    return counted(sass.Region(kernel.code, inside).instructions("CALL"))


def plain_rules(calls=0):
    """Of a kernel that moves more than it computes. Calls are to the slow paths of exact divisions and roots, and to what
    fails an assertion; `calls`: those in loops."""
    return [Rule("instructions", lambda k: (len(k.code.instructions), []), None),
            Rule("registers", lambda k: (k.registers, []), None),
            Rule("calls", lambda k: counted(k.code.named("CALL")), None),
            at_most(Rule("calls in loops", calls_in_loops, 0), calls),
            Rule("local loads and stores", lambda k: counted(k.code.named("LDL", "STL")), 0),
            SPILLED]


# Of the fused kernels that gather, what the bounds of their rules are beside the epilogue's. Down's backward spills five
# registers once a tile: it has three results of each element.
UP, DOWN_BACKWARD, WEIGHT_GRAD = {"loading": 90}, {"loading": 110}, {"loading": 230, "weight_grad": True}
UP_PROJECTION = {"multiply<UpProjection>": fused_rules(**UP, epilogue=1450)}
DOWN_BACKWARDS = {"multiply<DownBackward>": fused_rules(**DOWN_BACKWARD, epilogue=4000, spilled=40, epilogue_local=10)}
WEIGHT_GRADS = {"multiply<WeightGrad<true>>": fused_rules(**WEIGHT_GRAD, epilogue=1050),
                "multiply<WeightGrad<false>>": fused_rules(**WEIGHT_GRAD, epilogue=540)}
# Source: of each kernel, without the spaces of its readable name, the rules. Sources of bench/ are there if they are built.
RULES = {
    "kernels/hopper/up_projection": UP_PROJECTION,
    "kernels/hopper/down_backward": DOWN_BACKWARDS,
    "kernels/hopper/row_products": {
        "multiply<DownProjection>": fused_rules(loading=75, epilogue=480, gathers=False),
        "multiply<UpInputGrad>": fused_rules(loading=110, epilogue=480, gathers=False)},
    "kernels/hopper/weight_grads": WEIGHT_GRADS,
    # An ablation has to be the kernel that it is of, less what its name says: the same code where tokens are in sequence or
    # gradients stored, all of the products where the epilogue is empty.
    "bench/experts_ablation": UP_PROJECTION | DOWN_BACKWARDS | WEIGHT_GRADS | {
        f"multiply<WithoutEpilogue<{kernel}>>": fused_rules(**bounds, epilogue=270, empty=True)
        for kernel, bounds in (("UpProjection", UP), ("DownBackward", DOWN_BACKWARD), ("WeightGrad<true>", WEIGHT_GRAD),
                               ("WeightGrad<false>", WEIGHT_GRAD))},
    "kernels/permute": {"combine<c10::BFloat16,8>": plain_rules()},
    "kernels/cross_entropy": {"row_loss<c10::BFloat16,8>": plain_rules(), "row_loss_and_grads<c10::BFloat16,8>": plain_rules()},
    # The loops of `update` are for the last elements, which are no whole vector: a root and a quotient each, four at a time
    # or one.
    "kernels/adamw": {"update<4,float,c10::BFloat16>": plain_rules(calls=10), "sum_squares<float,4>": plain_rules()},
    "kernels/rms_norm": {"normalize_row<c10::BFloat16,8,false>": plain_rules(), "normalize_row<c10::BFloat16,8,true>": plain_rules(),
                 # Once a row.
                 "backward_chunk<c10::BFloat16,8,false>": plain_rules(calls=1),
                 "backward_chunk<c10::BFloat16,8,true>": plain_rules(calls=1)},
}
