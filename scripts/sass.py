"""The machine code of a GPU object as cuobjdump prints it (SASS): kernels, their basic blocks, loops and longest ways."""
import collections
import dataclasses
import re
import subprocess
from pathlib import Path

FUNCTION = re.compile(r"Function : (\S+)")
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
ADDRESS = re.compile(r"0x[0-9a-f]+$")
REGISTER = re.compile(r"\bR(\d+)(\.64)?")
LOADED_REGISTERS = {"64": 2, "128": 4}  # of 32 bits


@dataclasses.dataclass(frozen=True)
class Instruction:
    address: int
    guard: str  # the predicate that it runs under: "!P0"; "" if none
    opcode: str  # with its modifiers: LDG.E.CONSTANT
    operands: str

    @property
    def name(self):
        return self.opcode.split(".")[0]

    @property
    def target(self):
        """Of a branch: the address that it goes to."""
        found = ADDRESS.search(self.operands) if self.name == "BRA" else None
        return int(found[0], 16) if found else None

    @property
    def falls_through(self):
        """True if the instruction behind it may be the next."""
        always = not self.guard and (self.name != "BRA" or ADDRESS.fullmatch(self.operands))
        return not (self.name in ("BRA", "EXIT", "RET") and always)

    def registers(self):
        """Numbers of those that it writes, if it is a load, and of those that it names else."""
        found = [(int(number), bool(wide)) for number, wide in REGISTER.findall(self.operands)]
        loads = self.name in ("LDG", "LDS", "LDL") and found
        width = next((LOADED_REGISTERS[part] for part in self.opcode.split(".") if part in LOADED_REGISTERS), 1)
        written = {found[0][0] + i for i in range(width)} if loads else set()
        named = {number + i for number, wide in found[bool(loads):] for i in range(1 + wide)}
        return written, named

    def __str__(self):
        guard = f"@{self.guard} " if self.guard else ""
        return f"/*{self.address:04x}*/ {guard}{self.opcode} {self.operands}".rstrip()


class Region:
    """Some blocks of a kernel. Of a loop: `header` is the block that all its turns begin with."""

    def __init__(self, kernel, blocks, header=None):
        self.kernel, self.blocks, self.header = kernel, frozenset(blocks), header

    def instructions(self, *names):
        """Those with one of these names, or all, by address."""
        found = [i for block in sorted(self.blocks) for i in self.kernel.blocks[block]]
        return [i for i in found if i.name in names] if names else found

    def loops(self):
        """The loops within it, but not itself."""
        return [loop for loop in self.kernel.loops if loop.blocks < self.blocks]

    def without(self, *regions):
        return Region(self.kernel, self.blocks.difference(*(region.blocks for region in regions)), self.header)

    def successors(self, block):
        """Those of a block that lie within, and that no turn of a loop leads back to."""
        return [to for to in self.kernel.successors[block] if to in self.blocks and not self.kernel.dominates(to, block)]

    def reached_from(self, starts):
        found, new = set(), [block for block in starts if block in self.blocks]
        while new:
            found.add(block := new.pop())
            new += [to for to in self.successors(block) if to not in found]
        return Region(self.kernel, found)

    def longest_way(self):
        """Instructions along the way that has most of them; loops within it take one turn."""
        length = {}
        for block in reversed(self.kernel.order):
            if block in self.blocks:
                length[block] = len(self.kernel.blocks[block]) + max(
                    (length[to] for to in self.successors(block)), default=0)
        return max(length.values())

    def forks(self, but=()):
        """Conditional branches both of whose ways stay within. `but`: not those that may pass one of these opcodes by."""
        found = []
        for block in sorted(self.blocks):
            ways = [self.reached_from([to]) for to in self.successors(block)]
            if len(ways) < 2:
                continue
            passed = ways[0].blocks ^ ways[1].blocks
            if not any(i.opcode.startswith(tuple(but)) for i in Region(self.kernel, passed).instructions()):
                found.append(self.kernel.blocks[block][-1])
        return found

    def loads_before_use(self, opcode):
        """The most loads by `opcode` that one block issues before it uses what one of them brings."""
        most = 0
        for block in self.blocks:
            brought, count = set(), 0
            for instruction in self.kernel.blocks[block]:
                written, named = instruction.registers()
                if brought & named:
                    brought, count = set(), 0
                if instruction.name == opcode:
                    brought |= written
                    count += 1
                    most = max(most, count)
        return most


class Kernel:
    """A function: its instructions, and the blocks of those that can be reached from the first. Subroutines, and what only
    a warp whose threads have parted runs (BRA.DIV), are in the former alone."""

    def __init__(self, instructions):
        self.instructions = list(instructions)
        if any(i.name in ("BRX", "JMX", "JMP") for i in self.instructions):
            raise ValueError("branches to computed addresses are not understood")
        self.blocks, self.successors = self._split()
        self.order = self._reverse_postorder()
        self._predecessors = collections.defaultdict(list)
        for block in self.order:
            for to in self.successors[block]:
                self._predecessors[to].append(block)
        self._dominators = self._find_dominators()
        self.loops = self._find_loops()

    def named(self, *names):
        return [i for i in self.instructions if i.name in names]

    def dominates(self, block, other):
        """True if every way to `other` leads through `block`."""
        return bool(self._dominators[other] >> block & 1)

    def _split(self):
        begins = {self.instructions[0].address} | {i.target for i in self.instructions if i.target is not None}
        blocks, ends_block = [], True
        for instruction in self.instructions:
            if ends_block or instruction.address in begins:
                blocks.append([])
            blocks[-1].append(instruction)
            ends_block = instruction.name in ("BRA", "EXIT", "RET")
        at = {block[0].address: i for i, block in enumerate(blocks)}
        successors = []
        for i, block in enumerate(blocks):
            last, to = block[-1], []
            if last.target is not None and not last.opcode.startswith("BRA.DIV"):
                to.append(at[last.target])
            if last.falls_through and i + 1 < len(blocks):
                to.append(i + 1)
            successors.append(sorted(set(to)))
        return blocks, successors

    def _reverse_postorder(self):
        done, seen, stack = [], {0}, [(0, iter(self.successors[0]))]
        while stack:
            block, rest = stack[-1]
            new = next((to for to in rest if to not in seen), None)
            if new is None:
                done.append(block)
                stack.pop()
            else:
                seen.add(new)
                stack.append((new, iter(self.successors[new])))
        return done[::-1]

    def _find_dominators(self):
        """Of each block that can be reached, as bits."""
        dominators = dict.fromkeys(self.order, -1) | {0: 1}
        changed = True
        while changed:
            changed = False
            for block in self.order[1:]:
                common = -1
                for other in self._predecessors[block]:
                    common &= dominators[other]
                new = common | 1 << block
                changed |= new != dominators[block]
                dominators[block] = new
        return dominators

    def _find_loops(self):
        """Those of a header each, the shortest first."""
        bodies = {}
        for block in self.order:
            for header in self.successors[block]:
                if self.dominates(header, block):
                    body, new = bodies.setdefault(header, {header}), [block]
                    while new:
                        if (at := new.pop()) not in body:
                            body.add(at)
                            new += self._predecessors[at]
        loops = [Region(self, body, header) for header, body in bodies.items()]
        return sorted(loops, key=lambda loop: len(loop.instructions()))


def read(text):
    """{mangled name: Kernel} of what `cuobjdump -sass` printed."""
    kernels, name = {}, None
    for line in text.splitlines():
        if found := FUNCTION.search(line):
            name = found[1]
            kernels[name] = []
        elif (found := INSTRUCTION.search(line)) and name:
            kernels[name].append(Instruction(int(found[1], 16), found[2] or "", found[3], found[4]))
    return {name: Kernel(instructions) for name, instructions in kernels.items()}


def disassemble(disassembler, path):
    """As read(), of the code for sm_90a in an object file. `disassembler`: the folder of cuobjdump and nvdisasm."""
    for tool in ("cuobjdump", "nvdisasm"):
        if not (Path(disassembler) / tool).is_file():
            raise SystemExit(f"{disassembler} holds no {tool}: scripts/install_disassembler.sh installs it")
    out = subprocess.run([f"{disassembler}/cuobjdump", "-arch", "sm_90a", "-sass", path], capture_output=True, text=True,
                         check=False, env={"PATH": f"{disassembler}:/usr/bin:/bin"})
    if out.returncode != 0 or "Function : " not in out.stdout:
        raise SystemExit(f"{path}: cuobjdump prints no code for sm_90a: {out.stderr.strip()}")
    return read(out.stdout)
