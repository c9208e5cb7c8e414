import numpy as np

from medcli.data.bundled_set import bundled_images, bundled_pixels, bundled_set


def test_the_digits_are_the_published_set() -> None:
    images, labels, _ = bundled_images("digits")
    assert images.shape == (1797, 8, 8, 1)
    assert (images.min(), images.max()) == (0, 16)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_pixels_and_latents_are_the_same_pictures() -> None:
    images, labels, _ = bundled_images("digits")
    latents = bundled_images("digits").latents()
    assert (latents.min(), latents.max()) == (-1, 1)
    assert np.array_equal((latents[:, 0] + 1) * 8, images[..., 0])
    assert np.array_equal(bundled_set("digits").labels_N.numpy(), labels)
    pixels = bundled_pixels("digits")
    assert pixels.shape == (1797, 8, 8, 3)
    assert set(pixels[images[..., 0] == 0].ravel().tolist()) == {0}
    assert set(pixels[images[..., 0] == 16].ravel().tolist()) == {255}


def test_the_training_set_holds_all_of_them() -> None:
    assert bundled_set("digits").num_images == 1797
