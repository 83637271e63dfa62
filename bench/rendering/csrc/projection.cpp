// One Gaussian, one camera: covariance, perspective projection, and their derivatives (semantics of gsplat 1.5).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr float kBlur = 0.3f;            // added to the projected covariance, px²
constexpr float kAlphaMin = 1.0f / 255;  // fainter contributions are skipped
constexpr float kAlphaMax = 0.999f;
constexpr float kStop = 1e-4f;           // a pixel ends before its transmittance reaches this
constexpr float kExtent = 3.33f;         // standard deviations drawn at most
constexpr float kLog2e = 1.44269504f;

struct Splat {          // a projected Gaussian; a, b, c: log2(exp(-sigma)) = a dx² + b dx dy + c dy²
    float x, y, a, b, c, opacity, color[3], depth;
};
struct Bounds {         // first and last pixel that it can reach; y0 > y1: none
    int16_t x0, x1, y0, y1;
    bool visible() const { return y0 <= y1; }
};
struct SplatGradient {  // moments of dL/dsigma over pixels, then dL/dcolor, dL/ddepth
    float sum, x, y, xx, xy, yy, color[3], depth;
};
struct Scene {          // what does not depend on the camera
    float covariance[6];  // xx xy xz yy yz zz
    float extent;         // standard deviations until alpha < 1/255; 0: never visible
};
struct SceneGradient {
    double mean[3], covariance[6], opacity;
};

inline bool finite(float value) {  // -ffast-math removes std::isfinite
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return (bits & 0x7f800000u) != 0x7f800000u;
}

struct Rotation {
    double q[4], norm, r[9];
    explicit Rotation(const float* raw) {
        norm = std::max(1e-12, std::sqrt(double(raw[0]) * raw[0] + double(raw[1]) * raw[1] + double(raw[2]) * raw[2] +
                                         double(raw[3]) * raw[3]));
        for (int i = 0; i < 4; ++i) q[i] = raw[i] / norm;
        const double w = q[0], x = q[1], y = q[2], z = q[3];
        const double rows[9] = {1 - 2 * (y * y + z * z), 2 * (x * y - w * z),     2 * (x * z + w * y),
                                2 * (x * y + w * z),     1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                                2 * (x * z - w * y),     2 * (y * z + w * x),     1 - 2 * (x * x + y * y)};
        std::copy(rows, rows + 9, r);
    }
};

inline Scene scene_of(const float* quaternion, const float* scale, float opacity) {
    Scene scene{};
    if (!(opacity >= kAlphaMin)) return scene;
    scene.extent = std::min(kExtent, std::sqrt(2 * std::log(opacity / kAlphaMin)));
    const Rotation rotation(quaternion);
    int n = 0;
    for (int i = 0; i < 3; ++i)
        for (int j = i; j < 3; ++j, ++n) {
            double sum = 0;
            for (int k = 0; k < 3; ++k) sum += rotation.r[3 * i + k] * rotation.r[3 * j + k] * scale[k] * scale[k];
            scene.covariance[n] = float(sum);
        }
    return scene;
}

// dL/dcovariance (a symmetric matrix's six entries) → quaternion and scales.
inline void scene_backward(const float* quaternion, const float* scale, const double* g, float* dq, float* ds) {
    const Rotation rotation(quaternion);
    const double full[9] = {g[0], g[1], g[2], g[1], g[3], g[4], g[2], g[4], g[5]};
    double v[9];
    for (int j = 0; j < 3; ++j) {
        double sum = 0;
        for (int i = 0; i < 3; ++i) {
            double m = 0;
            for (int k = 0; k < 3; ++k) m += full[3 * i + k] * rotation.r[3 * k + j];
            sum += 2 * m * scale[j] * rotation.r[3 * i + j];
            v[3 * i + j] = 2 * m * scale[j] * scale[j];
        }
        ds[j] = float(sum);
    }
    const double w = rotation.q[0], x = rotation.q[1], y = rotation.q[2], z = rotation.q[3];
    const double unit[4] = {
        2 * (x * (v[7] - v[5]) + y * (v[2] - v[6]) + z * (v[3] - v[1])),
        2 * (-2 * x * (v[4] + v[8]) + y * (v[1] + v[3]) + z * (v[2] + v[6]) + w * (v[7] - v[5])),
        2 * (x * (v[1] + v[3]) - 2 * y * (v[0] + v[8]) + z * (v[5] + v[7]) + w * (v[2] - v[6])),
        2 * (x * (v[2] + v[6]) + y * (v[5] + v[7]) - 2 * z * (v[0] + v[4]) + w * (v[3] - v[1]))};
    double along = 0;
    for (int i = 0; i < 4; ++i) along += unit[i] * rotation.q[i];
    for (int i = 0; i < 4; ++i) dq[i] = float((unit[i] - along * rotation.q[i]) / rotation.norm);
}

struct Camera {
    double r[9], t[3], fx, fy, cx, cy, low[2], high[2];  // low, high: where the Jacobian's x/z and y/z are clamped
    int width, height;
    Camera(const float* view, const float* k, int w, int h) : width(w), height(h) {
        for (int i = 0; i < 3; ++i) {
            for (int j = 0; j < 3; ++j) r[3 * i + j] = view[4 * i + j];
            t[i] = view[4 * i + 3];
        }
        fx = k[0], fy = k[4], cx = k[2], cy = k[5];
        low[0] = -(cx + 0.15 * w) / fx, high[0] = (w - cx + 0.15 * w) / fx;
        low[1] = -(cy + 0.15 * h) / fy, high[1] = (h - cy + 0.15 * h) / fy;
    }
    double depth(const float* mean) const { return r[6] * mean[0] + r[7] * mean[1] + r[8] * mean[2] + t[2]; }
};

struct Projection {  // the intermediate values that forward and backward share
    double p[3], rz, clamped[2], u[6], su[6], cov[3];  // u = J R (2 × 3), su = u Σ, cov = xx xy yy with blur
    Projection(const Camera& camera, const float* mean, const float* s) {
        for (int i = 0; i < 3; ++i)
            p[i] = camera.r[3 * i] * mean[0] + camera.r[3 * i + 1] * mean[1] + camera.r[3 * i + 2] * mean[2] + camera.t[i];
        rz = 1 / p[2];
        for (int i = 0; i < 2; ++i) clamped[i] = std::min(camera.high[i], std::max(camera.low[i], p[i] * rz));
        for (int j = 0; j < 3; ++j) {
            u[j] = camera.fx * rz * (camera.r[j] - clamped[0] * camera.r[6 + j]);
            u[3 + j] = camera.fy * rz * (camera.r[3 + j] - clamped[1] * camera.r[6 + j]);
        }
        for (int i = 0; i < 6; i += 3) {
            su[i] = u[i] * s[0] + u[i + 1] * s[1] + u[i + 2] * s[2];
            su[i + 1] = u[i] * s[1] + u[i + 1] * s[3] + u[i + 2] * s[4];
            su[i + 2] = u[i] * s[2] + u[i + 1] * s[4] + u[i + 2] * s[5];
        }
        cov[0] = u[0] * su[0] + u[1] * su[1] + u[2] * su[2] + kBlur;
        cov[1] = u[3] * su[0] + u[4] * su[1] + u[5] * su[2];
        cov[2] = u[3] * su[3] + u[4] * su[4] + u[5] * su[5] + kBlur;
    }
};

inline Bounds project(const Camera& camera, const float* mean, const Scene& scene, Splat& splat) {
    constexpr Bounds nothing{0, -1, INT16_MAX, -1};
    const Projection at(camera, mean, scene.covariance);
    const double det = at.cov[0] * at.cov[2] - at.cov[1] * at.cov[1];
    splat.x = float(camera.fx * at.p[0] * at.rz + camera.cx);
    splat.y = float(camera.fy * at.p[1] * at.rz + camera.cy);
    splat.depth = float(at.p[2]);
    const double rx = scene.extent * std::sqrt(at.cov[0]), ry = scene.extent * std::sqrt(at.cov[2]);
    if (!finite(splat.x) || !finite(splat.y) || !finite(float(rx)) || !finite(float(ry)) || !finite(float(det)) || det <= 0)
        return nothing;
    splat.a = float(-0.5 * kLog2e * at.cov[2] / det);
    splat.b = float(kLog2e * at.cov[1] / det);
    splat.c = float(-0.5 * kLog2e * at.cov[0] / det);
    const double x0 = std::ceil(std::max(0.0, splat.x - rx - 0.501)), y0 = std::ceil(std::max(0.0, splat.y - ry - 0.501));
    const double x1 = std::floor(std::min(camera.width - 1.0, splat.x + rx - 0.499));
    const double y1 = std::floor(std::min(camera.height - 1.0, splat.y + ry - 0.499));
    if (x0 > x1 || y0 > y1) return nothing;
    return {int16_t(x0), int16_t(x1), int16_t(y0), int16_t(y1)};
}

// Adds one view's share to the gradients of the mean, the covariance and the opacity.
inline void project_backward(const Camera& camera, const float* mean, const Scene& scene, const Splat& splat,
                             const SplatGradient& g, SceneGradient& out) {
    const Projection at(camera, mean, scene.covariance);
    const double a = -2 / kLog2e * splat.a, b = -1 / kLog2e * splat.b, c = -2 / kLog2e * splat.c;
    const double vx = a * g.x + b * g.y, vy = b * g.x + c * g.y;
    // dL/dcov = -X V X with X the conic and V = dL/dX, both symmetric 2 × 2
    const double xx = 0.5 * g.xx, xy = 0.5 * g.xy, yy = 0.5 * g.yy;
    const double m00 = a * xx + b * xy, m01 = a * xy + b * yy, m10 = b * xx + c * xy, m11 = b * xy + c * yy;
    const double g00 = -(m00 * a + m01 * b), g01 = -(m00 * b + m01 * c), g11 = -(m10 * b + m11 * c);
    const double *u0 = at.u, *u1 = at.u + 3;
    double du0[3], du1[3];
    int n = 0;
    for (int i = 0; i < 3; ++i) {
        du0[i] = 2 * (g00 * at.su[i] + g01 * at.su[3 + i]);
        du1[i] = 2 * (g01 * at.su[i] + g11 * at.su[3 + i]);
        for (int j = i; j < 3; ++j, ++n)
            out.covariance[n] += u0[i] * (g00 * u0[j] + g01 * u1[j]) + u1[i] * (g01 * u0[j] + g11 * u1[j]);
    }
    const auto dot = [](const double* p, const double* q) { return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]; };
    const double *r0 = camera.r, *r1 = camera.r + 3, *r2 = camera.r + 6;
    const double fx = camera.fx * at.rz, fy = camera.fy * at.rz;
    const double j00 = dot(du0, r0), j02 = dot(du0, r2), j11 = dot(du1, r1), j12 = dot(du1, r2);
    const double tx = at.clamped[0], ty = at.clamped[1];
    const double px = at.p[0] * at.rz, py = at.p[1] * at.rz;
    const bool free_x = px >= camera.low[0] && px <= camera.high[0], free_y = py >= camera.low[1] && py <= camera.high[1];
    const double dx = fx * vx - (free_x ? fx * at.rz * j02 : 0), dy = fy * vy - (free_y ? fy * at.rz * j12 : 0);
    const double dz = g.depth - fx * px * vx - fy * py * vy - at.rz * (fx * j00 + fy * j11) +
                      at.rz * (fx * tx * j02 * (free_x ? 2 : 1) + fy * ty * j12 * (free_y ? 2 : 1));
    for (int i = 0; i < 3; ++i) out.mean[i] += r0[i] * dx + r1[i] * dy + r2[i] * dz;
    out.opacity -= g.sum / splat.opacity;
}

}  // namespace
