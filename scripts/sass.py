"""The machine code of a GPU object as cuobjdump prints it (SASS): kernels, their instructions and loops."""
import collections
import dataclasses
import re
import subprocess

FUNCTION = re.compile(r"Function : (\S+)")
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
TARGET = re.compile(r"(0x[0-9a-f]+)")
REGISTER = re.compile(r"\bR(\d+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    address: int
    opcode: str  # with its modifiers: LDG.E.CONSTANT
    operands: str

    @property
    def name(self):
        return self.opcode.split(".")[0]

    @property
    def target(self):
        """Of a branch: the address that it goes to."""
        found = TARGET.search(self.operands) if self.name == "BRA" else None
        return int(found[1], 16) if found else None


class Code:
    """Instructions one after the other: a kernel, or a part of one."""

    def __init__(self, instructions):
        self.instructions = list(instructions)

    def __len__(self):
        return len(self.instructions)

    def counts(self):
        return collections.Counter(instruction.name for instruction in self.instructions)

    def loops(self):
        """What lies between the target of a branch backwards and the branch, the shortest first."""
        loops = []
        for end, instruction in enumerate(self.instructions):
            target = instruction.target
            if target is not None and self.instructions[0].address <= target < instruction.address:
                begin = next(i for i, at in enumerate(self.instructions) if at.address == target)
                loops.append(Code(self.instructions[begin:end + 1]))
        return sorted(loops, key=len)

    def shortest_loop(self, holds, lacks=()):
        """The shortest loop with every opcode of `holds` and none of `lacks`; None if there is none."""
        for loop in self.loops():
            counts = loop.counts()
            if all(counts[name] for name in holds) and not any(counts[name] for name in lacks):
                return loop
        return None

    def without(self, part):
        own = {instruction.address for instruction in part.instructions}
        return Code(i for i in self.instructions if i.address not in own)


def loads_before_use(code, opcode):
    """How many loads by `opcode` are issued before what one of them brought is used."""
    brought, count = set(), 0
    for instruction in code.instructions:
        registers = REGISTER.findall(instruction.operands)
        if instruction.name == opcode:
            if brought & set(registers[1:]):
                return count
            brought.add(registers[0])
            count += 1
        elif brought & set(registers):
            return count
    return count


def read(text):
    """{mangled name: Code} of what `cuobjdump -sass` printed."""
    kernels, name = {}, None
    for line in text.splitlines():
        if found := FUNCTION.search(line):
            name = found[1]
            kernels[name] = []
        elif (found := INSTRUCTION.search(line)) and name:
            kernels[name].append(Instruction(int(found[1], 16), found[3], found[4]))
    return {name: Code(instructions) for name, instructions in kernels.items()}


def disassemble(disassembler, path):
    """As read(), of an object file. `disassembler`: the folder of cuobjdump and nvdisasm."""
    out = subprocess.run([f"{disassembler}/cuobjdump", "-sass", path], capture_output=True, text=True, check=False,
                         env={"PATH": f"{disassembler}:/usr/bin:/bin"})
    if out.returncode != 0:
        raise RuntimeError(f"{path}: cuobjdump: {out.stderr.strip()}")
    return read(out.stdout)
