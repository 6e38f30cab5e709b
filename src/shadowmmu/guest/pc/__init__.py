"""A small PC around an SvmMachine: what programs without an operating system ask for.

pc = Pc(machine, output=sys.stdout.buffer.write)
pc.load(read_image(data), "prog.elf -v")
ending = pc.run()
ending.reason, ending.status           # "exit", 1
"""
