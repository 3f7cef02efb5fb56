"""What is published of one layer's experts on an H100 SXM, bf16, forward and backward: the chart of SonicMoE's repository
(assets/tput.png), read to about 4 TFLOP/s. FLOPs are 6 T d n K forward and 12 T d n K backward; the router is timed too."""

# (tokens T, model width d, experts' width n, experts E, experts of a token K): TFLOP/s forward, backward.
SONIC_MOE = {
    (40960, 768, 256, 128, 8): (335, 363), (40960, 768, 512, 64, 4): (397, 401), (40960, 768, 1024, 32, 2): (403, 433),
    (24576, 1536, 256, 128, 8): (363, 403), (24576, 1536, 512, 64, 4): (431, 438),
    (24576, 1536, 1024, 32, 2): (463, 466),
    (32768, 4096, 256, 256, 16): (427, 459), (32768, 4096, 512, 128, 8): (502, 511),
    (32768, 4096, 1024, 64, 4): (551, 553),
    (32768, 4096, 512, 256, 16): (517, 526), (32768, 4096, 1024, 128, 8): (558, 566),
    (32768, 4096, 2048, 64, 4): (594, 586),
}
# Grouped GEMMs of DeepGEMM with rows moved by PyTorch, and by kernels of their own: what our unfused experts are
# built like.
GROUPED_PRODUCTS = {
    (40960, 768, 256, 128, 8): ((133, 215), (234, 277)), (40960, 768, 512, 64, 4): ((195, 283), (311, 322)),
    (40960, 768, 1024, 32, 2): ((219, 296), (367, 343)),
    (24576, 1536, 256, 128, 8): ((150, 227), (255, 272)), (24576, 1536, 512, 64, 4): ((234, 296), (350, 320)),
    (24576, 1536, 1024, 32, 2): ((262, 317), (412, 341)),
    (32768, 4096, 256, 256, 16): ((174, 253), (277, 326)), (32768, 4096, 512, 128, 8): ((324, 345), (423, 380)),
    (32768, 4096, 1024, 64, 4): ((470, 393), (506, 408)),
    (32768, 4096, 512, 256, 16): ((292, 333), (427, 397)), (32768, 4096, 1024, 128, 8): ((433, 397), (517, 420)),
    (32768, 4096, 2048, 64, 4): ((547, 418), (573, 442)),
}
FITTED_FROM_WIDTH = 1024  # the constants of trainer/planner/kernel_forms.cpp were fitted to experts at least as wide
