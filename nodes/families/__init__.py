"""All that is known of the model families: one file for each, and the registry that finds it.

To add one, write its file (kandinsky5.py is a short example, base.py says what each fact means),
put it into FAMILIES in registry.py, and give it a configuration in tests/comfy/zoo.
"""
