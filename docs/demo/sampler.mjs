// What diffusion_jax does in Python, for images in the browser: addressed noise, a grid of levels, DDIM and ancestral steps.
// Arithmetic is in double precision, where Python's is in single; an image differs by one grey level at most.

const STREAMS = { x_T: 3, sampler: 4 } // of diffusion_jax/streams.py

// Returns two words of threefry-2x32, the generator of JAX. [Salmon et al. 2011]
function threefry([k0, k1], c0, c1) {
  const keys = [k0, k1, k0 ^ k1 ^ 0x1bd11bda]
  const rotations = [[13, 15, 26, 6], [17, 29, 16, 24]]
  let x = (c0 + k0) >>> 0
  let y = (c1 + k1) >>> 0
  for (let block = 0; block < 5; block++) {
    for (const by of rotations[block % 2]) {
      x = (x + y) >>> 0
      y = (((y << by) | (y >>> (32 - by))) ^ x) >>> 0
    }
    x = (x + keys[(block + 1) % 3]) >>> 0
    y = (y + keys[(block + 2) % 3] + block + 1) >>> 0
  }
  return [x, y]
}

const foldIn = (key, number) => threefry(key, 0, number)

// Returns the key of image `index`, as diffusion_jax.streams.key does.
export const imageKey = (seed, stream, index) => foldIn(foldIn([0, seed], STREAMS[stream]), index)

// Returns `size` standard normal numbers, as jax.random.normal does.
export function normal(key, size) {
  const below1 = 1 - 2 ** -24
  return Float32Array.from({ length: size }, (_, i) => {
    const [high, low] = threefry(key, 0, i)
    const share = ((high ^ low) >>> 9) / 2 ** 23 // of 23 bits, in [0, 1)
    return Math.SQRT2 * inverseErf(Math.max(Math.fround(2 * share - below1), -below1))
  })
}

// Returns the inverse of the error function. [Giles 2010, single precision, as XLA has it]
function inverseErf(x) {
  const centre = [2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941]
  const tails = [-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682]
  const w = -Math.log1p(Math.fround(-x * x)) // rounded as there: the logarithm magnifies it
  const [coefficients, at] = w < 5 ? [centre, w - 2.5] : [tails, Math.sqrt(w) - 3]
  return x * coefficients.reduce((sum, coefficient) => sum * at + coefficient)
}

// Returns the rows of `count` steps among the levels T, T - 1, ..., 0: the grid 'trailing', rounded as NumPy does.
export function trailing(last, count) {
  return Array.from({ length: count + 1 }, (_, i) => {
    const time = i === count ? 0 : i * (-last / count) + last
    const down = Math.floor(time)
    const isUp = time - down > 0.5 || (time - down === 0.5 && down % 2 === 1)
    return last - down - isUp
  })
}

// Returns images, a Float32Array of [B, H, W, C] in [-1, 1].
//   network   (x, c_noise, labels) -> the output, all for the same number of images
//   manifest  what tools.export wrote for all levels of a run: --config.sample.num_steps=1000
//   options   sampler 'ddim' or 'ancestral', steps, seed, count, labels (of each image, or null), guidance (1: off), and
//             onStep (x_0, step), which shows them on the way
export async function sample(network, manifest, { sampler, steps, seed, count, labels, guidance, onStep = () => {} }) {
  const levels = trailing(manifest.levels.alpha.length - 1, steps).map((row) => levelOf(manifest.levels, row))
  const size = manifest.image_shape.reduce((product, length) => product * length)
  const draw = (keyOf) => joined(Array.from({ length: count }, (_, i) => normal(keyOf(i), size)))
  const keys = Array.from({ length: count }, (_, i) => imageKey(seed, 'sampler', i))
  let x = draw((i) => imageKey(seed, 'x_T', i)).map((noise) => levels[0].sigma * noise)
  for (let step = 0; step < steps; step++) {
    const [t, s] = [levels[step], levels[step + 1]]
    const x_0 = (await predicted(network, x, t, { labels, guidance, count, none: manifest.model.num_classes }))
      .map((value) => Math.min(Math.max(value, -1), 1))
    await onStep(x_0, step)
    const c = -Math.expm1(t.log_snr - s.log_snr) // the share of the signal that is new at s
    if (sampler === 'ddim') {
      x = x.map((value, i) => s.alpha * x_0[i] + (s.sigma / t.sigma) * (value - t.alpha * x_0[i]))
    } else {
      const keep = (t.alpha * s.sigma ** 2) / (s.alpha * t.sigma ** 2)
      const noise = draw((i) => foldIn(foldIn(keys[i], step), 0))
      x = x.map((value, i) => keep * value + s.alpha * c * x_0[i] + s.sigma * Math.sqrt(c) * noise[i])
    }
  }
  return x
}

// Returns the network's x_0, led away from that without a label. [Ho & Salimans 2022, eq. 6]
async function predicted(network, x, level, { labels, guidance, count, none }) {
  const isGuided = labels && guidance !== 1
  const input = isGuided ? joined([x, x]) : x
  const told = isGuided ? labels.concat(Array(count).fill(none)) : labels
  const scaled = input.map((value) => level.input_scale * value)
  const output = await network(scaled, Array(isGuided ? 2 * count : count).fill(level.c_noise), told)
  const scale = 1 / (level.alpha * level.b - level.sigma * level.a)
  const found = input.map((value, i) => scale * (level.b * value - level.sigma * output[i]))
  return isGuided ? x.map((_, i) => found[x.length + i] + guidance * (found[i] - found[x.length + i])) : found
}

function levelOf(levels, row) {
  const level = Object.fromEntries(Object.entries(levels).map(([name, column]) => [name, column[row]]))
  return { ...level, log_snr: level.log_snr ?? Infinity }
}

function joined(arrays) {
  const whole = new Float32Array(arrays.reduce((length, array) => length + array.length, 0))
  arrays.reduce((start, array) => (whole.set(array, start), start + array.length), 0)
  return whole
}

// Returns x in [-1, 1] as grey levels, rounded to even as NumPy does.
export function toUint8(x) {
  return Uint8ClampedArray.from(x, (value) => (value + 1) * 127.5) // this type clips, and rounds half to even
}
