// Tiles of 8 × 8 pixels, one vector a row: which splats reach them, their colors, and the gradients of these.

#include "projection.cpp"

#include <vector>
#ifdef __AVX__
#include <immintrin.h>
#endif

namespace {

constexpr int kTile = 8, kBand = 16;  // pixels; a band is the rows that one task draws
typedef float V __attribute__((vector_size(32)));
typedef int32_t I __attribute__((vector_size(32)));

inline bool any(I mask) {
#ifdef __AVX__
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
    int found = 0;
    for (int i = 0; i < kTile; ++i) found |= mask[i];
    return found != 0;
#endif
}
inline float sum(V v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }
inline int largest(I v) {
    int result = v[0];
    for (int i = 1; i < kTile; ++i) result = std::max(result, v[i]);
    return result;
}

inline V exp2_of(V x) {  // for x ≤ 0, to 1e-7; polynomial of Cephes
    x = x < -126.0f ? V{} - 126.0f : x;
    const I whole = __builtin_convertvector(x - 0.5f, I);
    const V f = x - __builtin_convertvector(whole, V);
    V p = f * 1.535336188e-4f + 1.339887440e-3f;
    p = p * f + 9.618437358e-3f;
    p = p * f + 5.550332471e-2f;
    p = p * f + 2.402264791e-1f;
    p = p * f + 6.931472028e-1f;
    p = p * f + 1.0f;
    return (V)((I)p + (whole << 23));
}

// opacity · exp(−sigma) along a row, and where it is drawn at all.
inline I row_alpha(const Splat& s, V dx, float dy, V& alpha) {
    const V power = (s.a * dx + s.b * dy) * dx + s.c * dy * dy;
    alpha = s.opacity * exp2_of(power > 0.0f ? V{} : power);
    return (power <= 0.0f) & (alpha >= kAlphaMin);
}

struct Size { int width, height; };

struct Band {  // the splats that reach some rows of an image, and each tile's list of them, front to back
    std::vector<int32_t> members;
    std::vector<Splat> splats;
    std::vector<Bounds> bounds;
    std::vector<std::vector<int32_t>> tiles;
    int across, top;

    void fill(const Size size, int band, const Splat* all, const Bounds* reach, int count) {
        across = (size.width + kTile - 1) / kTile, top = band * kBand;
        members.clear(), splats.clear(), bounds.clear();
        if (tiles.size() < size_t(across * (kBand / kTile))) tiles.resize(across * (kBand / kTile));
        for (auto& tile : tiles) tile.clear();
        for (int k = 0; k < count; ++k) {
            if (reach[k].y1 < top || reach[k].y0 >= top + kBand) continue;
            const int y1 = std::min<int>(reach[k].y1 - top, kBand - 1) / kTile;
            for (int y = std::max(reach[k].y0 - top, 0) / kTile; y <= y1; ++y)
                for (int x = reach[k].x0 / kTile; x <= reach[k].x1 / kTile; ++x)
                    tiles[y * across + x].push_back(int32_t(members.size()));
            members.push_back(k), splats.push_back(all[k]), bounds.push_back(reach[k]);
        }
    }
};

struct Tile {  // pixels [x, x + 8) × [y, y + 8), cut to the image
    int x, y, width, rows, columns;
    Tile(const Size size, const Band& band, int index)
        : x(index % band.across * kTile), y(band.top + index / band.across * kTile), width(size.width),
          rows(std::min(kTile, size.height - y)), columns(std::min(kTile, size.width - x)) {}
    V centers() const { return V{0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.5f} + float(x); }
    int first(const Bounds& b) const { return std::max(b.y0 - y, 0); }
    int last(const Bounds& b) const { return std::min(b.y1 - y, rows - 1); }
    template <typename T, typename U>
    void read(const T* plane, U* into) const {
        for (int r = 0; r < rows; ++r) std::memcpy(into + r, plane + int64_t(y + r) * width + x, 4 * columns);
    }
    template <typename T, typename U>
    void write(T* plane, const U* from) const {
        for (int r = 0; r < rows; ++r) std::memcpy(plane + int64_t(y + r) * width + x, from + r, 4 * columns);
    }
};

void draw(const Band& band, const std::vector<int32_t>& list, const Tile& tile, float* image, int32_t* last, int64_t plane) {
    V running[kTile] = {}, left[kTile], rgb[3][kTile] = {}, depth[kTile] = {};
    I final_index[kTile];
    for (int r = 0; r < kTile; ++r) {
        left[r] = V{} + 1.0f, final_index[r] = I{} - 1;
        for (int c = 0; c < tile.columns && r < tile.rows; ++c) running[r][c] = 1;
    }
    for (size_t n = 0; n < list.size(); ++n) {
        const Splat& s = band.splats[list[n]];
        const Bounds& b = band.bounds[list[n]];
        const V dx = s.x - tile.centers();
        for (int r = tile.first(b); r <= tile.last(b); ++r) {
            V alpha;
            const V before = running[r];
            const I hit = row_alpha(s, dx, s.y - (tile.y + r + 0.5f), alpha) & (before > 0.0f);
            if (!any(hit)) continue;
            alpha = alpha > kAlphaMax ? V{} + kAlphaMax : alpha;
            const V after = before * (1.0f - alpha);
            const I blend = hit & (after > kStop);
            const V weight = blend ? alpha * before : V{};
            for (int k = 0; k < 3; ++k) rgb[k][r] += weight * s.color[k];
            depth[r] += weight * s.depth;
            left[r] = blend ? after : left[r];
            final_index[r] = blend ? I{} + int32_t(n) : final_index[r];
            running[r] = hit ? (blend ? after : V{}) : before;
        }
        if (n % 16 == 15) {
            I live{};
            for (int r = 0; r < kTile; ++r) live |= running[r] > 0.0f;
            if (!any(live)) break;
        }
    }
    for (int k = 0; k < 3; ++k) tile.write(image + k * plane, rgb[k]);
    tile.write(image + 3 * plane, depth), tile.write(image + 4 * plane, left), tile.write(last, final_index);
}

void draw_backward(const Band& band, const std::vector<int32_t>& list, const Tile& tile, const float* image,
                   const int32_t* last, const float* gradient, int64_t plane, SplatGradient* out) {
    V behind[kTile], t[kTile] = {}, g[5][kTile] = {};  // behind: Σ weight · value of what lies behind, times gradient
    I final_index[kTile], furthest = I{} - 1;
    for (I& index : final_index) index = I{} - 1;
    for (int k = 0; k < 5; ++k) tile.read(gradient + k * plane, g[k]);
    tile.read(image + 4 * plane, t), tile.read(last, final_index);
    for (int r = 0; r < kTile; ++r) {
        behind[r] = t[r] * g[4][r];
        furthest = final_index[r] > furthest ? final_index[r] : furthest;
    }
    for (int n = largest(furthest); n >= 0; --n) {
        const Splat& s = band.splats[list[n]];
        const Bounds& b = band.bounds[list[n]];
        const V dx = s.x - tile.centers();
        V m0{}, mx{}, my{}, mxx{}, mxy{}, myy{}, color[3] = {}, depth{};
        for (int r = tile.first(b); r <= tile.last(b); ++r) {
            V raw;
            const float dy = s.y - (tile.y + r + 0.5f);
            const I hit = row_alpha(s, dx, dy, raw) & (final_index[r] >= n);
            if (!any(hit)) continue;
            const V alpha = raw > kAlphaMax ? V{} + kAlphaMax : raw;
            const V inverse = 1.0f / (1.0f - alpha), before = t[r] * inverse;
            const V weight = hit ? alpha * before : V{};
            const V value = s.color[0] * g[0][r] + s.color[1] * g[1][r] + s.color[2] * g[2][r] + s.depth * g[3][r];
            const V slope = behind[r] * inverse - before * value;  // −dL/dalpha
            const V m = (hit & (raw <= kAlphaMax)) ? raw * slope : V{};
            const V row = m * dx;
            m0 += m, mx += row, mxx += row * dx;
            my += m * dy, mxy += row * dy, myy += m * (dy * dy);
            for (int k = 0; k < 3; ++k) color[k] += weight * g[k][r];
            depth += weight * g[3][r];
            behind[r] += weight * value;
            t[r] = hit ? before : t[r];
        }
        SplatGradient& o = out[list[n]];
        o.sum += sum(m0), o.x += sum(mx), o.y += sum(my), o.xx += sum(mxx), o.xy += sum(mxy), o.yy += sum(myy);
        for (int k = 0; k < 3; ++k) o.color[k] += sum(color[k]);
        o.depth += sum(depth);
    }
}

}  // namespace
