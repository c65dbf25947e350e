"""Numbers of images in `image_unlearning`, apart from it so that a cost can be computed without
torch.
"""

PICTURES = 40  # of each concept
PRESERVED = 150  # of preserve prompts
REPEATS = 24  # x_t of each image

# Images in each step of the training, by what the denoiser reads at them.
WORDS = 4  # words that are learned meanwhile, one image each
REPLAYED = 2  # words as they were earlier
PROMPTED = 1  # prompts of the concept
UNRELATED = 1  # other prompts
KEPT = 8  # images of preserve prompts
BATCH = WORDS + REPLAYED + PROMPTED + UNRELATED + KEPT
