// Gaussian rasterizer for CPUs, forward and backward: images × bands of rows in parallel, tiles of 8 × 8 pixels, one
// vector a tile's row. No two threads add to one number and no sum depends on the number of threads.

#include "tiles.cpp"

#include <omp.h>

namespace {

constexpr int kChunk = 1024, kAhead = 12;  // Gaussians a task takes; Gaussians fetched ahead

struct Job {  // the arguments of a call; layouts are row-major, as render() documents
    const float *means, *quaternions, *scales, *opacities, *colors, *views, *intrinsics;
    int scenes, cameras, color_views, width, height;
    int64_t count;
    float near, far;
    int threads;

    int images() const { return scenes * cameras; }
    int bands() const { return (height + kBand - 1) / kBand; }
    int chunks() const { return int((count + kChunk - 1) / kChunk); }
    Size size() const { return {width, height}; }
    int64_t pixels() const { return int64_t(width) * height; }
    Camera camera(int image) const { return {views + 16 * image, intrinsics + 9 * image, width, height}; }
    const float* mean(int scene, int64_t i) const { return means + 3 * (scene * count + i); }
    int64_t color(int image, int64_t i) const {
        return 3 * ((color_views == 1 ? image / cameras : image) * count + i);
    }
};

template <typename Work>
void over_gaussians(const Job& job, int groups, Work work) {  // work(group, first, end), in parallel
#pragma omp parallel for num_threads(job.threads) schedule(dynamic, 1)
    for (int64_t n = 0; n < int64_t(groups) * job.chunks(); ++n) {
        const int64_t first = n % job.chunks() * kChunk;
        work(int(n / job.chunks()), first, std::min(first + kChunk, job.count));
    }
}

const Scene* prepare(const Job& job) {
    static thread_local std::vector<Scene> kept;
    kept.resize(job.scenes * job.count);
    Scene* scenes = kept.data();
    over_gaussians(job, job.scenes, [&](int scene, int64_t first, int64_t end) {
        for (int64_t i = scene * job.count + first; i < scene * job.count + end; ++i)
            scenes[i] = scene_of(job.quaternions + 4 * i, job.scales + 3 * i, job.opacities[i]);
    });
    return scenes;
}

// The Gaussians between the planes, front to back (stable); returns how many.
int depth_order(const Job& job, const Scene* scenes, int image, int32_t* order) {
    struct Key { uint32_t depth; int32_t index; };
    static thread_local std::vector<Key> keys, other;
    keys.clear();
    const Camera camera = job.camera(image);
    const int scene = image / job.cameras;
    for (int64_t i = 0; i < job.count; ++i) {
        const float depth = float(camera.depth(job.mean(scene, i)));
        if (scenes[scene * job.count + i].extent <= 0 || !finite(depth) || depth < job.near || depth > job.far) continue;
        uint32_t bits;
        std::memcpy(&bits, &depth, 4);
        keys.push_back({bits, int32_t(i)});
    }
    other.resize(keys.size());
    for (int shift = 0; shift < 33; shift += 11) {
        uint32_t starts[2049] = {};
        for (const Key& key : keys) ++starts[(key.depth >> shift & 2047) + 1];
        for (int i = 0; i < 2048; ++i) starts[i + 1] += starts[i];
        for (const Key& key : keys) other[starts[key.depth >> shift & 2047]++] = key;
        keys.swap(other);
    }
    for (size_t i = 0; i < keys.size(); ++i) order[i] = keys[i].index;
    return int(keys.size());
}

template <typename Work>
void over_bands(const Job& job, const Splat* splats, const Bounds* bounds, const int32_t* counts, Work work) {
#pragma omp parallel for num_threads(job.threads) schedule(dynamic, 1)
    for (int n = 0; n < job.images() * job.bands(); ++n) {
        static thread_local Band band;
        const int image = n / job.bands();
        band.fill(job.size(), n % job.bands(), splats + image * job.count, bounds + image * job.count, counts[image]);
        work(image, n % job.bands(), band);
    }
}

struct Place {  // where a Gaussian's gradients of one image lie: one share for each band that it reaches
    int64_t first;
    int32_t rank, bands;  // rank: in depth order
};

// Gives each Gaussian of an image its place; returns the number of shares.
int64_t share_out(const Job& job, int image, const Bounds* bounds, const int32_t* order, int count, Place* places) {
    const int64_t base = image * job.count;
    std::fill(places + base, places + base + job.count, Place{});
    int64_t used = 0;
    for (int k = 0; k < count; ++k) {
        const Bounds& b = bounds[base + k];
        if (!b.visible()) continue;
        const int bands = b.y1 / kBand - b.y0 / kBand + 1;
        places[base + order[base + k]] = {used, k, bands};
        used += bands;
    }
    return used;
}

int tiles_of(const Job& job, const Band& band) {
    return band.across * ((std::min(kBand, job.height - band.top) + kTile - 1) / kTile);
}

}  // namespace

extern "C" void rasterize_forward(const Job* arguments, Splat* splats, Bounds* bounds, int32_t* order, int32_t* counts,
                                  float* out, int32_t* last) {
    const Job& job = *arguments;
    const Scene* scenes = prepare(job);
#pragma omp parallel for num_threads(job.threads) schedule(dynamic, 1)
    for (int image = 0; image < job.images(); ++image)
        counts[image] = depth_order(job, scenes, image, order + image * job.count);
    over_gaussians(job, job.images(), [&](int image, int64_t first, int64_t end) {
        const Camera camera = job.camera(image);
        const int64_t scene = image / job.cameras, base = image * job.count;
        end = std::min<int64_t>(end, counts[image]);
        for (int64_t k = first; k < end; ++k) {
            const int64_t i = order[base + k], ahead = order[base + std::min(k + kAhead, end - 1)];
            __builtin_prefetch(job.mean(int(scene), ahead));
            __builtin_prefetch(scenes + scene * job.count + ahead);
            __builtin_prefetch(job.colors + job.color(image, ahead));
            Splat& splat = splats[base + k];
            bounds[base + k] = project(camera, job.mean(int(scene), i), scenes[scene * job.count + i], splat);
            splat.opacity = job.opacities[scene * job.count + i];
            std::memcpy(splat.color, job.colors + job.color(image, i), sizeof splat.color);
        }
    });
    over_bands(job, splats, bounds, counts, [&](int image, int, const Band& band) {
        for (int n = 0; n < tiles_of(job, band); ++n)
            draw(band, band.tiles[n], Tile(job.size(), band, n), out + 5 * image * job.pixels(), last + image * job.pixels(),
                 job.pixels());
    });
}

extern "C" void rasterize_backward(const Job* arguments, const Splat* splats, const Bounds* bounds, const int32_t* order,
                                   const int32_t* counts, const float* out, const int32_t* last, const float* gradient,
                                   float* means, float* quaternions, float* scales, float* opacities, float* colors) {
    const Job& job = *arguments;
    const Scene* scenes = prepare(job);
    static thread_local std::vector<Place> kept_places;
    static thread_local std::vector<int64_t> kept_starts;
    static thread_local std::vector<SplatGradient> kept_shares;
    kept_places.resize(job.images() * job.count), kept_starts.resize(job.images() + 1);
    Place* places = kept_places.data();
    int64_t* starts = kept_starts.data();  // where an image's shares start
#pragma omp parallel for num_threads(job.threads) schedule(dynamic, 1)
    for (int image = 0; image < job.images(); ++image)
        starts[image + 1] = share_out(job, image, bounds, order, counts[image], places);
    starts[0] = 0;
    for (int image = 0; image < job.images(); ++image) starts[image + 1] += starts[image];
    if (kept_shares.size() < size_t(starts[job.images()])) kept_shares.resize(starts[job.images()]);
    SplatGradient* shares = kept_shares.data();
    over_bands(job, splats, bounds, counts, [&](int image, int index, const Band& band) {
        static thread_local std::vector<SplatGradient> sums;
        sums.assign(band.members.size(), SplatGradient{});
        for (int n = 0; n < tiles_of(job, band); ++n)
            draw_backward(band, band.tiles[n], Tile(job.size(), band, n), out + 5 * image * job.pixels(),
                          last + image * job.pixels(), gradient + 5 * image * job.pixels(), job.pixels(), sums.data());
        for (size_t m = 0; m < sums.size(); ++m) {
            const int64_t base = image * job.count, k = base + band.members[m];
            shares[starts[image] + places[base + order[k]].first + index - bounds[k].y0 / kBand] = sums[m];
        }
    });
    over_gaussians(job, job.scenes, [&](int scene, int64_t first, int64_t end) {
        std::vector<Camera> cameras;
        for (int v = 0; v < job.cameras; ++v) cameras.push_back(job.camera(scene * job.cameras + v));
        for (int64_t i = first; i < end; ++i) {
            SceneGradient total{};
            const int64_t g = scene * job.count + i;
            for (int image = scene * job.cameras; image < (scene + 1) * job.cameras; ++image) {
                float* color = colors + job.color(image, i);
                if (job.color_views != 1 || image % job.cameras == 0) color[0] = color[1] = color[2] = 0;
                const Place* place = places + image * job.count + i;
                if (i + kAhead < end) {
                    __builtin_prefetch(splats + image * job.count + place[kAhead].rank);
                    __builtin_prefetch(shares + starts[image] + place[kAhead].first);
                }
                if (place->bands == 0) continue;
                SplatGradient s{};
                for (int n = 0; n < place->bands; ++n)
                    for (int f = 0; f < 10; ++f) (&s.sum)[f] += (&shares[starts[image] + place->first + n].sum)[f];
                for (int c = 0; c < 3; ++c) color[c] += s.color[c];
                project_backward(cameras[image % job.cameras], job.mean(scene, i), scenes[g],
                                 splats[image * job.count + place->rank], s, total);
            }
            for (int c = 0; c < 3; ++c) means[3 * g + c] = float(total.mean[c]);
            opacities[g] = float(total.opacity);
            scene_backward(job.quaternions + 4 * g, job.scales + 3 * g, total.covariance, quaternions + 4 * g, scales + 3 * g);
        }
    });
}
