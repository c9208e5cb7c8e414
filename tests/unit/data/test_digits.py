import numpy as np

from medcli.data.digits import digit_latents, digit_pixels, digit_set, load_digits


def test_the_digits_are_the_published_set() -> None:
    images, labels = load_digits()
    assert images.shape == (1797, 8, 8)
    assert (images.min(), images.max()) == (0, 16)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_pixels_and_latents_are_the_same_pictures() -> None:
    images, labels = load_digits()
    latents, classes = digit_latents()
    assert (latents.min(), latents.max()) == (-1, 1)
    assert np.array_equal((latents[:, 0] + 1) * 8, images)
    assert np.array_equal(classes, labels)
    pixels = digit_pixels()
    assert pixels.shape == (1797, 8, 8, 3)
    assert set(pixels[images == 0].ravel().tolist()) == {0}
    assert set(pixels[images == 16].ravel().tolist()) == {255}


def test_the_training_set_holds_all_of_them() -> None:
    assert digit_set().num_images == 1797
