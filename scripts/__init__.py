"""Tools of this repository: the embedded model, generated pages, fuzzing, tests of the images."""
