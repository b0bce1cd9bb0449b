/* Stands for libvulkan.so.1 when the Vulkan module is linked.
 *
 * The module then loads on machines without a Vulkan loader too (the package looks for one first), and a wheel that
 * holds it needs no library that its platform tag does not promise. The functions are those that llama.cpp calls by
 * their names; all others it asks vkGetInstanceProcAddr for. The linker names any that is missing here.
 */
#include <dlfcn.h>
#include <vulkan/vulkan_core.h>

static PFN_vkVoidFunction find(const char *name) {
    static void *loader; /* races only with a thread that finds the same one */
    if (loader == NULL) {
        loader = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    }
    return loader == NULL ? NULL : (PFN_vkVoidFunction)dlsym(loader, name);
}

#define THE(function) ((PFN_##function)find(#function))

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetInstanceProcAddr(VkInstance instance, const char *name) {
    static PFN_vkGetInstanceProcAddr function;
    if (function == NULL) {
        function = THE(vkGetInstanceProcAddr);
    }
    return function == NULL ? NULL : function(instance, name);
}

/* The rest needs an instance or a device, which nobody gets without a loader. */

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetDeviceProcAddr(VkDevice device, const char *name) {
    return THE(vkGetDeviceProcAddr)(device, name);
}

VKAPI_ATTR void VKAPI_CALL vkGetPhysicalDeviceFeatures2(VkPhysicalDevice device, VkPhysicalDeviceFeatures2 *features) {
    THE(vkGetPhysicalDeviceFeatures2)(device, features);
}

VKAPI_ATTR void VKAPI_CALL vkCmdCopyBuffer(
    VkCommandBuffer commands, VkBuffer from, VkBuffer to, uint32_t count, const VkBufferCopy *regions) {
    static PFN_vkCmdCopyBuffer function; /* called for every copy */
    if (function == NULL) {
        function = THE(vkCmdCopyBuffer);
    }
    function(commands, from, to, count, regions);
}
